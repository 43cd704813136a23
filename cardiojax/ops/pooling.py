"""Halving and doubling of images.

Pooling by plain maxima: on CPU the gradient of XLA's `reduce_window` max takes sixty times as long, and elsewhere this
is no slower (`benchmarks/conv_gradients.py`).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool_2x2(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """2 × 2 max-pool, stride 2; an odd last row or column is left out."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    rows = jnp.maximum(x[:, 0:h:2], x[:, 1:h:2])
    return jnp.maximum(rows[:, :, 0:w:2], rows[:, :, 1:w:2])


def upsampled(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Nearest, × 2."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
