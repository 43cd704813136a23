"""Convolution and pooling whose gradients are fast on CPU too.

XLA's CPU backend computes the kernel gradient of a convolution with few channels at a tenth of the speed of its
forward pass, and that of `reduce_window` max at a sixtieth (`benchmarks/conv_gradients.py`). Both have an equal in
plain matrix products and maxima, which is used there; on other backends the convolution is XLA's own.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

BY_MATMUL = True       # on CPU; False shows what another backend would compute and send (`benchmarks/communication.py`)


def _conv(x, kernel, stride: int, pad: tuple[int, int]):
    return lax.conv_general_dilated(x, kernel, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _kernel_gradient_by_matmul(x: Float[Array, "n h w i"], g: Float[Array, "n p q o"], side: int, stride: int,
                               pad: tuple[int, int]) -> Float[Array, "side side i o"]:
    """Σ over images of patchesᵀ · g, one image at a time so that its patches stay in cache."""
    p, q = g.shape[1:3]

    def add(total, image_and_gradient):
        image, gradient = image_and_gradient
        padded = jnp.pad(image, (pad, pad, (0, 0)))
        patches = jnp.concatenate([padded[a:a + stride * (p - 1) + 1:stride, b:b + stride * (q - 1) + 1:stride]
                                   for a in range(side) for b in range(side)], axis=-1)
        product = lax.dot_general(patches.reshape(p * q, -1), gradient.reshape(p * q, -1),
                                  (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        return total + product, None

    zero = jnp.zeros((side * side * x.shape[-1], g.shape[-1]), jnp.float32)
    return lax.scan(add, zero, (x, g))[0].reshape(side, side, x.shape[-1], -1)


def conv(x: Float[Array, "n h w i"], kernel: Float[Array, "k k i o"], stride: int = 1, pad: int | None = None
         ) -> Float[Array, "n p q o"]:
    """Convolution with a square kernel, NHWC and HWIO; `pad` zeros on every side ("SAME" at stride 1 by default)."""
    side = kernel.shape[0]
    return _fast_conv(x, kernel, stride, ((side - 1) // 2, side // 2) if pad is None else (pad, pad))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _fast_conv(x, kernel, stride, pad):
    return _conv(x, kernel, stride, pad)


def _forward(x, kernel, stride, pad):
    return _conv(x, kernel, stride, pad), (x, kernel)


def _backward(stride, pad, residuals, g):
    x, kernel = residuals
    dx, = jax.vjp(lambda x: _conv(x, kernel, stride, pad), x)[1](g)

    def plain(x, g):
        return jax.vjp(lambda k: _conv(x, k, stride, pad), kernel)[1](g)[0]

    if not BY_MATMUL:
        return dx, plain(x, g)
    return dx, lax.platform_dependent(
        x, g, cpu=lambda x, g: _kernel_gradient_by_matmul(x, g, kernel.shape[0], stride, pad).astype(kernel.dtype),
        default=plain)


_fast_conv.defvjp(_forward, _backward)


class Conv(nnx.Module):
    """`conv` with a float32 kernel of its own, computed in `dtype`, without bias."""

    def __init__(self, fin: int, fout: int, side: int, dtype, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (side, side, fin, fout), jnp.float32))
        self.dtype = dtype

    def __call__(self, x):
        return conv(x.astype(self.dtype), self.kernel[...].astype(self.dtype))


def max_pool_2x2(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """2 × 2 max-pool, stride 2; an odd last row or column is left out."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    rows = jnp.maximum(x[:, 0:h:2], x[:, 1:h:2])
    return jnp.maximum(rows[:, :, 0:w:2], rows[:, :, 1:w:2])
