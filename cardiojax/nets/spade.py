"""Spatially adaptive normalisation and spectrally normalised convolutions, as in NVlabs/SPADE.

Park et al. 2019, "Semantic Image Synthesis with Spatially-Adaptive Normalization"; `models/networks/normalization.py`
and torch's `spectral_norm`.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Integer

from cardiojax.nets.draws import xavier
from cardiojax.ops.convolution import conv
from cardiojax.ops.lookup import Lookup, lookup, modulated
from cardiojax.ops.neighbourhoods import Neighbourhoods, Weights, modulation, neighbourhoods

Norm = Literal["syncbatch", "batch", "instance"]
MOMENTUM = 0.1             # share of the new value in the running statistics (torch's)
EPSILON = 1e-5


class SpectralVector(nnx.BatchStat):
    """u or v of a spectral norm: kept with the running statistics, but not re-estimated as they are."""


class SpectralConv(nnx.Module):
    """A convolution with bias, optionally spectrally normalised: kernel / σ with σ = vᵀ·W·u.

    u and v are constants of the forward pass; `power_iteration` moves them, once before every training pass. σ
    divides all of a kernel, so its products are of full float32 precision (a GPU's default, TF32, keeps three digits).
    """

    bias: Any
    u: Any                                   # SpectralVectors, or None
    v: Any

    def __init__(self, fin: int, fout: int, side: int, dtype, rngs: nnx.Rngs, *, stride: int = 1,
                 pad: int | None = None, bias: bool = True, spectral: bool = False):
        self.kernel = nnx.Param(xavier(rngs, (side, side, fin, fout)))
        self.bias = nnx.Param(np.zeros(fout, np.float32)) if bias else None
        if spectral:                         # iterated: a network used before any training divides by something like σ
            u, v = _iterated(self.kernel[...], rngs.normal((fout,)))
            self.u, self.v = SpectralVector(u), SpectralVector(v)
        else:
            self.u = self.v = None
        self.stride, self.pad, self.dtype = stride, pad, dtype

    def power_iteration(self):
        """One step of u and v; no gradient passes."""
        u, v = _iterated(lax.stop_gradient(self.kernel[...]), self.u[...])
        self.v.set_value(v)                  # `[...] =` looks shardings up, which makes tracing slow
        self.u.set_value(u)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n p q o"]:
        kernel = self.kernel[...]
        if self.u is not None:
            sigma = _product(_product(self.v[...], kernel.reshape(-1, kernel.shape[-1])), self.u[...])
            kernel = kernel / sigma
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.pad)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def _iterated(kernel, u):
    """u ← W v / |W v| with v = Wᵀu / |Wᵀu|, and v; W is the kernel as (fout, side·side·fin)."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    v = _unit(_product(matrix, u))
    return _unit(_product(v, matrix)), v


def _product(a, b):
    return a @ b if isinstance(a, np.ndarray) else jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _unit(x):
    numpy = x.__array_namespace__()          # of first weights NumPy itself
    return x / numpy.maximum(numpy.linalg.vector_norm(x), 1e-12)


def power_iteration(module: nnx.Module):
    """One iteration of every spectral norm in `module`: what torch does at the start of a train-mode forward."""
    for _, part in nnx.iter_modules(module):
        if isinstance(part, SpectralConv) and part.u is not None:
            part.power_iteration()


class LabelMap(NamedTuple):
    """Label maps at one resolution, with what looking γ and β up needs where that pays."""

    labels: Int[Array, "n h w"]
    table: Neighbourhoods | Lookup | None

    def one_hot(self, classes: int, dtype) -> Float[Array, "n h w l"]:
        return jax.nn.one_hot(self.labels, classes, dtype=dtype)


def label_map(labels: Integer[Array, "n h w"], side: int, classes: int, rows: int | None = None) -> LabelMap:
    """Label maps at `side` pixels: the top-left pixel of each block, as torch's nearest resize takes.

    rows: of a table of fixed size (`ops.lookup`); 0 for none; None leaves it to the platform (`ops.neighbourhoods`).
    """
    factor = labels.shape[1] // side
    small = labels[:, ::factor, ::factor].astype(jnp.int32)
    if rows is None:
        return LabelMap(small, neighbourhoods(small, classes))
    return LabelMap(small, lookup(small, classes, rows) if rows else None)


def missing_rows(maps: dict[int, LabelMap]) -> Array | None:
    """Neighbourhoods that found no room in the tables of fixed size; None where there are no such tables."""
    missing = [m.table.missing for m in maps.values() if isinstance(m.table, Lookup)]
    return sum(missing[1:], missing[0]) if missing else None


class Spade(nnx.Module):
    """norm(x)·(1 + γ) + β, with γ and β from the label map.

    norm "syncbatch": batch statistics over all replicas; "batch": over each device's part of the batch;
    "instance": of each image. The running variance is unbiased, as torch's.
    """

    mean: Any
    variance: Any

    def __init__(self, channels: int, classes: int, hidden: int, norm: Norm, dtype, rngs: nnx.Rngs):
        self.shared = SpectralConv(classes, hidden, 3, dtype, rngs)
        self.gamma_beta = SpectralConv(hidden, 2 * channels, 3, dtype, rngs)
        # drawn apart: as one kernel they would be counted as twice as wide, and come out smaller
        gamma, beta = (xavier(rngs, (3, 3, hidden, channels)) for _ in range(2))
        self.gamma_beta.kernel.set_value(gamma.__array_namespace__().concat([gamma, beta], axis=-1))
        self.norm, self.dtype = norm, dtype
        if norm != "instance":
            self.mean, self.variance = (nnx.BatchStat(f(channels, np.float32)) for f in (np.zeros, np.ones))

    def __call__(self, x: Float[Array, "n h w c"], label_map: LabelMap, train: bool, axis_name: str | None = None
                 ) -> Float[Array, "n h w c"]:
        weights = Weights(*(p[...].astype(self.dtype) for c in (self.shared, self.gamma_beta)
                            for p in (c.kernel, c.bias)))
        x = self.normalised(x, train, axis_name)
        if isinstance(label_map.table, Lookup):
            return modulated(x, label_map.table, weights)
        gamma, beta = jnp.split(modulation(label_map.table, label_map.labels, weights), 2, axis=-1)
        return x * (1 + gamma) + beta

    def normalised(self, x, train: bool, axis_name: str | None):
        if self.norm == "instance":
            return instance_norm(x)
        if train:
            mean, variance = self._batch_statistics(x, axis_name if self.norm == "syncbatch" else None)
        else:
            mean, variance = self.mean[...], self.variance[...]
        factor = lax.rsqrt(variance + EPSILON)
        return x * factor.astype(x.dtype) - (mean * factor).astype(x.dtype)

    def _batch_statistics(self, x, axis_name: str | None):
        x = x.astype(jnp.float32)
        n, mean = np.prod(x.shape[:3]), x.mean((0, 1, 2))
        if axis_name is not None:
            n, mean = n * lax.axis_size(axis_name), lax.pmean(mean, axis_name)
        variance = ((x - mean)**2).mean((0, 1, 2))
        if axis_name is not None:
            variance = lax.pmean(variance, axis_name)
        for running, new in ((self.mean, mean), (self.variance, variance * (n / max(n - 1, 1)))):
            running.set_value((1 - MOMENTUM) * running[...] + MOMENTUM * lax.stop_gradient(new))
        return mean, variance


def instance_norm(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Each channel of each image to mean 0 and variance 1."""
    x32 = x.astype(jnp.float32)
    mean = x32.mean((1, 2), keepdims=True)
    variance = ((x32 - mean)**2).mean((1, 2), keepdims=True)
    return ((x32 - mean) * lax.rsqrt(variance + EPSILON)).astype(x.dtype)
