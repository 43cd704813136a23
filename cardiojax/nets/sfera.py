"""SFERA: a residual encoder of each slice, a BiLSTM over the stack, volumes out (paper, Methods, Fig. 7)."""

import itertools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from cardiojax.nets.draws import drawing, lecun
from cardiojax.nets.layers import Conv, MaskedBatchNorm
from cardiojax.nets.lstm import BidirectionalLSTM
from cardiojax.ops.packing import encoded_slices
from cardiojax.ops.pooling import max_pool_2x2

CPU_PART = 4               # slices whose activations fit a CPU's cache
TYPICAL_SLICES = 10.0      # keeps the summed features of a stack of the order of one slice's


class SferaOutput(NamedTuple):
    """volumes: (B, 2) EDV and ESV, scaled (see `models.sfera.Scaling`); features: (B, 256) what the ridge reads;
    areas: (B, S, 2) each slice's share of the volumes × 10, zero on padding (meaningful with readout "sum")."""

    volumes: Float[Array, "b 2"]
    features: Float[Array, "b f"]
    areas: Float[Array, "b s 2"]


class ResidualBlock(nnx.Module):
    """Two 3×3 convolutions with BN, a 1×1 shortcut, ReLU, 2×2 max-pool."""

    def __init__(self, fin: int, fout: int, dtype, rngs: nnx.Rngs):
        self.conv_0 = Conv(fin, fout, 3, dtype, rngs)
        self.conv_1 = Conv(fout, fout, 3, dtype, rngs)
        self.conv_s = Conv(fin, fout, 1, dtype, rngs)
        self.norm_0, self.norm_1, self.norm_s = (MaskedBatchNorm(fout) for _ in range(3))

    def __call__(self, x, weight, train: bool, axis_name: str | None):
        h = nnx.relu(self.norm_0(self.conv_0(x), weight, train, axis_name))
        h = self.norm_1(self.conv_1(h), weight, train, axis_name)
        h = nnx.relu(h + self.norm_s(self.conv_s(x), weight, train, axis_name))
        return max_pool_2x2(h)


class Sfera(nnx.Module):
    """Stacks of (ED, ES) slices → scaled EDV and ESV.

    readout "final" reads the BiLSTM's two final states (the paper); "sum" adds its outputs over the slices, so
    that a volume is a sum over slices as in Simpson's rule.
    """

    def __init__(self, *, size_px: int, width: int, blocks: int, spatial_features: int, lstm_features: int,
                 readout: Literal["sum", "final"], dropout: float, dtype, remat: bool = False,
                 rngs: nnx.Rngs):
        if size_px < 2**blocks:
            raise ValueError(f"{blocks} blocks halve {size_px} pixels to nothing; use at most "
                             f"{size_px.bit_length() - 1}")
        channels = [2] + [width * 2**i for i in range(blocks)]
        self.blocks = nnx.List([ResidualBlock(a, b, dtype, rngs)
                                for a, b in itertools.pairwise(channels)])
        side = size_px // 2**blocks
        self.spatial = nnx.Linear(side * side * channels[-1], spatial_features, dtype=dtype, rngs=rngs,
                                  kernel_init=drawing(lecun, rngs))
        self.lstm = BidirectionalLSTM(spatial_features, lstm_features, rngs)
        self.head = nnx.Linear(2 * lstm_features, 2, use_bias=False, precision=jax.lax.Precision.HIGHEST, rngs=rngs,
                               kernel_init=drawing(lecun, rngs))
        self.offset = nnx.Param(np.full(2, 0.3, np.float32))
        self.readout, self.dtype, self.dropout, self.remat = readout, dtype, dropout, remat

    def encode(self, images: Float[Array, "n h w 2"], weight: Float[Array, " n"], train: bool,
               axis_name: str | None = None) -> Float[Array, "n f"]:
        """Slices in [0, 1] → spatial features; `weight` 0 marks padding."""
        x = (images - 0.5).astype(self.dtype)
        call = ResidualBlock.__call__
        if self.remat and train:
            call = nnx.remat(call, static_argnums=(3, 4))
        for block in self.blocks:
            x = call(block, x, weight, train, axis_name)
        return nnx.relu(self.spatial(x.reshape(len(x), -1))).astype(jnp.float32)

    def __call__(self, frames: Float[Array, "b s h w 2"], n_slices: Int[Array, " b"], *, train: bool = False,
                 slice_budget: int | None = None, dropout_keys: Array | None = None, axis_name: str | None = None
                 ) -> SferaOutput:
        """frames in [0, 1]; the first `n_slices` of each stack are real. Padding changes nothing.

        slice_budget: a static bound on the real slices of the batch. Only that many are convolved (packed, then
        scattered back); None convolves the padding too. Outside of training a CPU convolves a few at a time, through
        which no gradients pass.
        dropout_keys: one a study, while training; None drops nothing.
        """
        real = jnp.arange(frames.shape[1]) < n_slices[:, None]
        spatial = encoded_slices(lambda images, weight: self.encode(images, weight, train, axis_name), frames, real,
                                 slice_budget, None if train else CPU_PART)
        if dropout_keys is not None and self.dropout > 0:
            keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - self.dropout, spatial.shape[-1:]))(dropout_keys)
            spatial = spatial * keep[:, None] / (1 - self.dropout)
        outputs, final = self.lstm(spatial, n_slices)
        outputs = outputs * real[..., None]
        features = outputs.sum(axis=1) / TYPICAL_SLICES if self.readout == "sum" else final
        return SferaOutput(self.head(features) + self.offset[...], features, self.head(outputs))
