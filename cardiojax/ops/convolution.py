"""Convolution that is fast on CPU too, chosen by the platform that a program is lowered for.

XLA's CPU backend computes the kernel gradient of a convolution with few channels at a tenth of the speed of its
forward pass (`benchmarks/conv_gradients.py`). The same in plain matrix products is used there, and with many channels
3×3 convolutions go by Winograd's algorithm, forward and back. On other platforms the convolution and its gradients are
XLA's own.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

WINOGRAD_FROM = 16, 64     # channels: the fewer of those in and out, and both together
WORTHWHILE = 2e8           # operations: with fewer, a hundred more kernels to compile are not made up for
CACHE_BYTES = 8 * 2**20    # of the tiles and products of so many images as Winograd's algorithm works on at a time;
OF_KERNEL = 8              # but at least so many times the kernel's, which are read again each time
LAID_OUT_BYTES = 2**20     # of the patches of so many images as a kernel's gradient works on at a time, or of one
FEW = 4                    # channels in, from which a 1 × 1 convolution is no product of matrices


def _conv(x, kernel, stride: int, pad: tuple[int, int]):
    return lax.conv_general_dilated(x, kernel, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _kernel_gradient_by_matmul(x: Float[Array, "n h w i"], g: Float[Array, "n p q o"], side: int, stride: int,
                               pad: tuple[int, int]) -> Float[Array, "side side i o"]:
    """Σ over pixels of patchesᵀ · g, of so many images at a time that their patches stay in the cache.

    Where g has no more channels than x, both are laid out three times in place of x nine times: x by the kernel's
    columns, g by its rows.
    """
    (p, q, fout), fin = g.shape[1:], x.shape[-1]
    both = stride == 1 and fout <= fin
    channels = side * (fin + fout) if both else side**2 * fin

    def add(total, images, gradients):
        padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)))
        columns = [padded[:, :, b:b + stride * (q - 1) + 1:stride] for b in range(side)]
        if both:
            gradients = jnp.concatenate([jnp.pad(gradients, ((0, 0), (a, side - 1 - a), (0, 0), (0, 0)))
                                         for a in range(side)], axis=-1)
        else:
            columns = [column[:, a:a + stride * (p - 1) + 1:stride] for a in range(side) for column in columns]
        return total + _product(jnp.concatenate(columns, axis=-1), gradients), None

    zero = jnp.zeros((side * fin, side * fout) if both else (side**2 * fin, fout), jnp.float32)
    total, _ = _in_parts(add, zero, LAID_OUT_BYTES // (4 * p * q * channels), x, g)
    if both:
        return total.reshape(side, fin, side, fout).transpose(2, 0, 1, 3)
    return total.reshape(side, side, fin, fout)


def _product(x: Float[Array, "n p q i"], g: Float[Array, "n p q o"]) -> Float[Array, "i o"]:
    """Summed over all pixels."""
    return lax.dot_general(x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]), (((0,), (0,)), ((), ())),
                           preferred_element_type=jnp.float32)


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


Tiled = list[list[Float[Array, "m c"]]]       # 4 × 4 places of a tile, of each the values of all tiles


def _tiles(x: Float[Array, "n h w i"]) -> Tiled:
    """What is multiplied by `_winograd_kernel`: from tiles of 4×4 inputs, two apart, one for each 2×2 of outputs."""
    def inputs(t):
        return t[0] - t[2], t[1] + t[2], t[2] - t[1], t[1] - t[3]

    _, h, w, fin = x.shape
    rows, cols = -(-h // 2), -(-w // 2)
    padded = jnp.pad(x, ((0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0)))
    return [[t.reshape(-1, fin) for t in inputs([row[:, :, b:b + 2 * cols - 1:2] for b in range(4)])]
            for row in inputs([padded[:, a:a + 2 * rows - 1:2] for a in range(4)])]


def _winograd(x: Float[Array, "n h w i"], kernels: list[list[Float[Array, "i o"]]]) -> Float[Array, "n h w o"]:
    """The same convolution ("SAME") by F(2×2, 3×3): 16 products for each 2×2 of outputs in place of 36 (Lavin and Gray
    2016). kernels: of `_winograd_kernel`."""
    def outputs(t):
        return t[0] + t[1] + t[2], t[1] - t[2] - t[3]

    n, h, w, _ = x.shape
    rows, cols = -(-h // 2), -(-w // 2)
    products = [[t @ k for t, k in zip(*row, strict=True)] for row in zip(_tiles(x), kernels, strict=True)]
    out = outputs([jnp.stack(outputs(row), axis=1) for row in products])
    out = jnp.stack(out, axis=1).reshape(n, rows, cols, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return out.reshape(n, 2 * rows, 2 * cols, -1)[:, :h, :w]


def _of_products(g: Float[Array, "n h w o"]) -> Tiled:
    """The gradients of `_winograd`'s products, from its result's."""
    def transposed(t):
        return t[0], t[0] + t[1], t[0] - t[1], -t[1]

    _, h, w, fout = g.shape
    padded = jnp.pad(g, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    return [[t.reshape(-1, fout) for t in transposed([row[:, :, b::2] for b in range(2)])]
            for row in transposed([padded[:, a::2] for a in range(2)])]


def _of_tiles(g: Tiled, shape: tuple[int, ...]) -> Float[Array, "n h w i"]:
    """The gradient of the pixels, each of which is in up to four of `_tiles`, from that of the tiles."""
    n, h, w, fin = shape
    rows, cols = -(-h // 2), -(-w // 2)

    def moved(tiles, by: int, axis: int):
        return lax.pad(tiles, jnp.zeros((), tiles.dtype), [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(4)])

    def transposed(t, axis: int):
        """Of the even pixels, and of the odd ones; the first is the second of its tile."""
        first, second, third, fourth = t[0], t[1] - t[2] + t[3], t[1] + t[2] - t[0], -t[3]
        return second + moved(fourth, 1, axis), third + moved(first, -1, axis)

    columns = [transposed([t.reshape(n, rows, cols, fin) for t in column], 1) for column in zip(*g, strict=True)]
    pixels = [jnp.stack(transposed(row, 2), axis=3) for row in zip(*columns, strict=True)]
    return jnp.stack(pixels, axis=2).reshape(n, 2 * rows, 2 * cols, fin)[:, :h, :w]


def _winograd_by_parts(x: Float[Array, "n h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "n h w o"]:
    kernels = _winograd_kernel(kernel)
    _, y = _in_parts(lambda _, x: (None, _winograd(x, kernels)), None, _tiled_images(x, kernel), x)
    return y.reshape(len(x), *y.shape[2:])


def _winograd_gradients(x: Float[Array, "n h w i"], kernel: Float[Array, "3 3 i o"], g: Float[Array, "n h w o"]
                        ) -> tuple[Float[Array, "n h w i"], Float[Array, "3 3 i o"]]:
    kernels, transposed = jax.vjp(_winograd_kernel, kernel)

    def add(total, x, g):
        of_products = _of_products(g)
        total = jax.tree.map(lambda total, t, p: total + t.T @ p, total, _tiles(x), of_products)
        return total, _of_tiles(jax.tree.map(lambda p, k: p @ k.T, of_products, kernels), x.shape)

    total, dx = _in_parts(add, jax.tree.map(jnp.zeros_like, kernels), _tiled_images(x, kernel), x, g)
    return dx.reshape(x.shape), *transposed(total)


def _tiled_images(x: Float[Array, "n h w i"], kernel: Float[Array, "3 3 i o"]) -> int:
    """As many as the cache holds with all their tiles, which take four times as much: to write and read them would cost
    more than the products."""
    (_, h, w, fin), fout = x.shape, kernel.shape[-1]
    return max(CACHE_BYTES, OF_KERNEL * 16 * 4 * fin * fout) // (16 * h * w * (fin + fout))


def _in_parts(step: Callable, total, fit: int, *arrays: Float[Array, "n _ _ _"]):
    """`lax.scan` over parts of all images: as many of them as divide their number and of `fit` at most, or one.

    The arrays are closed over: as scanned ones, in parts, the compiler would copy them.
    """
    n = len(arrays[0])
    images = max(m for m in range(1, n + 1) if n % m == 0 and m <= max(fit, 1))

    def of_part(total, part):
        return step(total, *(lax.dynamic_slice_in_dim(a, part * images, images) for a in arrays))

    return lax.scan(of_part, total, jnp.arange(n // images))


def _by_winograd(x, kernel, stride: int, pad: tuple[int, int]) -> bool:
    least, both = WINOGRAD_FROM
    channels = kernel.shape[2:]
    return (kernel.shape[0] == 3 and stride == 1 and pad == (1, 1) and x.dtype == jnp.float32
            and min(channels) >= least and sum(channels) >= both
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
