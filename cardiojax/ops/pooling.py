"""Halving and doubling of images.

Pooling by plain maxima: on CPU the gradient of XLA's `reduce_window` max takes sixty times as long, and on a GPU this
is no slower (`benchmarks/conv_gradients.py`). A TPU's compiler expects the window to take half of the time, gradients
included (32 channels, 150 × 150 pixels).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float


def max_pool_2x2(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """2 × 2 max-pool, stride 2; an odd last row or column is left out. Of two equals each has half of the gradient:
    first those of a column, then the larger ones of two columns; on a TPU the first has all of it."""
    return lax.platform_dependent(x, cpu=_of_slices, tpu=_of_windows, default=_of_partners)


def _of_windows(x):
    return nnx.max_pool(x, (2, 2), (2, 2))


def _of_slices(x):
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    rows = jnp.maximum(x[:, 0:h:2], x[:, 1:h:2])
    return jnp.maximum(rows[:, :, 0:w:2], rows[:, :, 1:w:2])


@jax.custom_vjp
def _of_partners(x):
    """The gradient in one pass over the image: each pixel asks whether it was the larger of two, and the two the
    larger of four. Gradients of slices are images of zeros that are added up: on an H200 twice as slow."""
    return _of_slices(x)


def _gradient_of_partners(x, g):
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    even = x[:, :h, :w]
    other = _partner(even, 1)
    rows = jnp.maximum(even, other)
    dx = upsampled(g) * _share(even, other) * _share(rows, _partner(rows, 2))
    return jnp.pad(dx, ((0, 0), (0, x.shape[1] - h), (0, x.shape[2] - w), (0, 0))),


def _partner(x, axis: int):
    """Of each pixel the other one of its pair."""
    return jnp.flip(x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1:]), axis + 1).reshape(x.shape)


def _share(x, other):
    return jnp.where(x == other, 0.5, x > other).astype(x.dtype)


_of_partners.defvjp(lambda x: (_of_slices(x), x), _gradient_of_partners)


def upsampled(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Nearest, × 2."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
