"""A network's first weights, drawn by NumPy: a program of JAX that draws a hundred arrays takes long to compile."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float

Drawn = Float[Array | np.ndarray, "..."]


class HostRngs(nnx.Rngs):
    """Normal numbers by NumPy; what else Flax takes from it (keys) is not for drawing."""

    def __init__(self, key: Array):
        super().__init__(0)
        self.generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:    # pyright: ignore[reportIncompatibleMethodOverride]
        return self.generator.standard_normal(shape, np.float32)


def rngs_of(key: Array) -> nnx.Rngs:
    """What a network is drawn from; within a traced function (for its shapes, `jax.eval_shape`) Flax's own."""
    return nnx.Rngs(key) if isinstance(key, Tracer) else HostRngs(key)


def he(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Drawn:
    """Normal numbers of variance 2 / inputs (He et al. 2015), of a kernel (…, in, out)."""
    return _scaled(rngs, shape, 2 / _inputs(shape))


def lecun(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Drawn:
    """Normal numbers of variance 1 / inputs."""
    return _scaled(rngs, shape, 1 / _inputs(shape))


def xavier(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Drawn:
    """NVlabs' "xavier" with a gain of 0.02, of a kernel (…, in, out)."""
    field = int(np.prod(shape[:-2]))
    return _scaled(rngs, shape, 0.02**2 * 2 / (field * (shape[-2] + shape[-1])))


def orthogonal(rngs: nnx.Rngs, shape: tuple[int, int]) -> Drawn:
    """A matrix with no more rows than columns: its rows are of length 1 and at right angles (Saxe et al. 2014)."""
    columns = rngs.normal(shape[::-1])
    q, r = (np if isinstance(columns, np.ndarray) else jnp).linalg.qr(columns)
    diagonal = r.diagonal()
    return (q * (diagonal / abs(diagonal))).T


def drawing(draw: Callable[[nnx.Rngs, Any], Drawn], rngs: nnx.Rngs) -> Callable:
    """`draw` as Flax's layers take it."""
    return lambda _, shape, __: draw(rngs, shape)


def _inputs(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[:-1]))


def _scaled(rngs: nnx.Rngs, shape: tuple[int, ...], variance: float) -> Drawn:
    return float(np.sqrt(variance)) * rngs.normal(shape)
