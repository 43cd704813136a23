"""Convolution that is fast on CPU too, chosen by the platform that a program is lowered for.

XLA's CPU backend computes the kernel gradient of a convolution with few channels at a tenth of the speed of its
forward pass (`benchmarks/conv_gradients.py`). The same in plain matrix products is used there, and with many channels
3×3 convolutions go by Winograd's algorithm, forward and back. On other platforms the convolution and its gradients are
XLA's own.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

WINOGRAD_FROM = 16, 64     # channels: the fewer of those in and out, and both together
WORTHWHILE = 2e8           # operations: with fewer, a hundred more kernels to compile are not made up for
CACHE_BYTES = 8 * 2**20    # of the tiles and products of so many images as Winograd's algorithm works on at a time;
OF_KERNEL = 8              # but at least so many times the kernel's, which are read again each time
FEW = 4                    # channels in, from which a 1 × 1 convolution is no product of matrices


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


@jax.custom_vjp
def _winograd_kernel(kernel: Float[Array, "3 3 i o"]) -> list[list[Float[Array, "i o"]]]:
    """The 4×4 matrices that stand for a 3×3 kernel. Its gradient is written out: JAX's would add up padded arrays."""
    def weights(t):
        return t[0], 0.5 * (t[0] + t[1] + t[2]), 0.5 * (t[0] - t[1] + t[2]), t[2]

    return [list(weights(row)) for row in weights(kernel)]


def _winograd_kernel_gradient(_, g: list[list[Float[Array, "i o"]]]) -> tuple[Float[Array, "3 3 i o"]]:
    def transposed(t):
        return t[0] + 0.5 * (t[1] + t[2]), 0.5 * (t[1] - t[2]), 0.5 * (t[1] + t[2]) + t[3]

    columns = [transposed(row) for row in g]                      # 4 × 3
    rows = [transposed(column) for column in zip(*columns, strict=True)]          # 3 columns × 3 rows
    return jnp.stack([jnp.stack(row) for row in zip(*rows, strict=True)]),


_winograd_kernel.defvjp(lambda kernel: (_winograd_kernel(kernel), None), _winograd_kernel_gradient)


def _winograd(x: Float[Array, "n h w i"], kernels: list[list[Float[Array, "i o"]]]) -> Float[Array, "n h w o"]:
    """The same convolution ("SAME") by F(2×2, 3×3): 16 products for each 2×2 of outputs in place of 36 (Lavin and Gray
    2016). Its gradients are of the same kind. kernels: of `_winograd_kernel`."""
    def inputs(t):
        return t[0] - t[2], t[1] + t[2], t[2] - t[1], t[1] - t[3]

    def outputs(t):
        return t[0] + t[1] + t[2], t[1] - t[2] - t[3]

    n, h, w, fin = x.shape
    rows, cols = -(-h // 2), -(-w // 2)                  # of tiles, each of 4×4 inputs, two apart
    padded = jnp.pad(x, ((0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0)))
    tiles = [inputs([row[:, :, b:b + 2 * cols - 1:2] for b in range(4)])
             for row in inputs([padded[:, a:a + 2 * rows - 1:2] for a in range(4)])]
    products = [[t.reshape(-1, fin) @ k for t, k in zip(*row, strict=True)]
                for row in zip(tiles, kernels, strict=True)]
    out = outputs([jnp.stack(outputs(row), axis=1) for row in products])
    out = jnp.stack(out, axis=1).reshape(n, rows, cols, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return out.reshape(n, 2 * rows, 2 * cols, -1)[:, :h, :w]


def _winograd_by_parts(x: Float[Array, "n h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "n h w o"]:
    kernels = _winograd_kernel(kernel)
    return _joined(lax.map(lambda part: _winograd(part, kernels), _parts(x, kernel)), len(x))


def _winograd_gradients(x: Float[Array, "n h w i"], kernel: Float[Array, "3 3 i o"], g: Float[Array, "n h w o"]
                        ) -> tuple[Float[Array, "n h w i"], Float[Array, "3 3 i o"]]:
    kernels, transposed = jax.vjp(_winograd_kernel, kernel)

    def add(total, x_and_g):
        x, g = x_and_g
        dx, of_part = jax.vjp(_winograd, x, kernels)[1](g)
        return jax.tree.map(jnp.add, total, of_part), dx

    total, dx = lax.scan(add, jax.tree.map(jnp.zeros_like, kernels), (_parts(x, kernel), _parts(g, kernel)))
    return _joined(dx, len(x)), *transposed(total)


def _parts(x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "p m h w c"]:
    """Images in parts of so many as the cache holds with all their tiles, which take four times as much: to write and
    read them would cost more than the products."""
    n, h, w, _ = x.shape
    fin, fout = kernel.shape[2:]
    fit = max(CACHE_BYTES, OF_KERNEL * 16 * 4 * fin * fout) // (16 * h * w * (fin + fout))
    parts = -(-n // max(fit, 1))
    images = -(-n // parts)
    return jnp.pad(x, ((0, parts * images - n), (0, 0), (0, 0), (0, 0))).reshape(parts, images, *x.shape[1:])


def _joined(parts: Float[Array, "p m h w c"], n: int) -> Float[Array, "n h w c"]:
    return parts.reshape(-1, *parts.shape[2:])[:n]


def _by_winograd(x, kernel, stride: int, pad: tuple[int, int]) -> bool:
    least, together = WINOGRAD_FROM
    channels = kernel.shape[2:]
    return (kernel.shape[0] == 3 and stride == 1 and pad == (1, 1) and x.dtype == jnp.float32
            and min(channels) >= least and sum(channels) >= together
            and 2 * 9 * x.size * channels[1] >= WORTHWHILE)


def conv(x: Float[Array, "n h w i"], kernel: Float[Array, "k k i o"], stride: int = 1, pad: int | None = None
         ) -> Float[Array, "n p q o"]:
    """Convolution with a square kernel, NHWC and HWIO; `pad` zeros on every side ("SAME" at stride 1 by default)."""
    side = kernel.shape[0]
    pads = ((side - 1) // 2, side // 2) if pad is None else (pad, pad)
    if side == stride == 1 and pads == (0, 0) and kernel.shape[2] <= FEW:
        return lax.platform_dependent(x, kernel, cpu=lambda x, k: _fast_conv(x, k, 1, pads), default=_multiplied_out)
    return _fast_conv(x, kernel, stride, pads)


def _multiplied_out(x: Float[Array, "n h w i"], kernel: Float[Array, "1 1 i o"]) -> Float[Array, "n h w o"]:
    """Arithmetic that the compiler does again wherever the result is read, instead of writing and reading it."""
    products = [x[..., i:i + 1].astype(jnp.float32) * kernel[0, 0, i].astype(jnp.float32)
                for i in range(kernel.shape[2])]
    return functools.reduce(jnp.add, products).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _fast_conv(x, kernel, stride, pad):
    def plain(x, kernel):
        return _conv(x, kernel, stride, pad)

    if _by_winograd(x, kernel, stride, pad):
        return lax.platform_dependent(x, kernel, cpu=_winograd_by_parts, default=plain)
    return plain(x, kernel)


def _forward(x, kernel, stride, pad):
    return _fast_conv(x, kernel, stride, pad), (x, kernel)


def _backward(stride, pad, residuals, g):
    def plain(x, kernel, g):
        return jax.vjp(lambda x, k: _conv(x, k, stride, pad), x, kernel)[1](g)

    def by_matmul(x, kernel, g):
        dx, = jax.vjp(lambda x: _conv(x, kernel, stride, pad), x)[1](g)
        return dx, _kernel_gradient_by_matmul(x, g, kernel.shape[0], stride, pad).astype(kernel.dtype)

    return lax.platform_dependent(*residuals, g, default=plain,
                                  cpu=_winograd_gradients if _by_winograd(*residuals, stride, pad) else by_matmul)


_fast_conv.defvjp(_forward, _backward)
