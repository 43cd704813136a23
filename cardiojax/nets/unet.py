"""A U-Net that labels every pixel of a frame (Ronneberger et al. 2015), with batch normalisation."""

import itertools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cardiojax.errors import InputError
from cardiojax.nets.draws import drawing, lecun
from cardiojax.nets.layers import Conv, MaskedBatchNorm
from cardiojax.ops.pooling import max_pool_2x2, upsampled


class DoubleConv(nnx.Module):
    """Twice: 3×3 convolution, BN, ReLU."""

    def __init__(self, fin: int, fout: int, dtype, rngs: nnx.Rngs):
        self.conv_0, self.conv_1 = Conv(fin, fout, 3, dtype, rngs), Conv(fout, fout, 3, dtype, rngs)
        self.norm_0, self.norm_1 = MaskedBatchNorm(fout), MaskedBatchNorm(fout)

    def __call__(self, x, weight, train: bool, axis_name: str | None):
        x = nnx.relu(self.norm_0(self.conv_0(x), weight, train, axis_name))
        return nnx.relu(self.norm_1(self.conv_1(x), weight, train, axis_name))


class UNet(nnx.Module):
    """Frames → logits of the labels, at the same size, a multiple of 2^halvings.

    width: channels at full size; every halving doubles them.
    """

    def __init__(self, *, channels: int, classes: int, width: int, halvings: int, dtype, remat: bool = False,
                 rngs: nnx.Rngs):
        widths = [width * 2**i for i in range(halvings + 1)]
        self.down = nnx.List([DoubleConv(a, b, dtype, rngs) for a, b in itertools.pairwise([channels, *widths])])
        self.up = nnx.List([DoubleConv(a + b, a, dtype, rngs) for a, b in itertools.pairwise(widths)])
        self.head = nnx.Linear(width, classes, dtype=dtype, rngs=rngs, kernel_init=drawing(lecun, rngs))
        self.halvings, self.dtype, self.remat = halvings, dtype, remat

    def __call__(self, frames: Float[Array, "n h w i"], weight: Float[Array, " n"], *, train: bool = False,
                 axis_name: str | None = None) -> Float[Array, "n h w c"]:
        """frames in [0, 1]; `weight` 0 marks frames that only fill up a batch. Raises InputError for other sizes."""
        step = 2**self.halvings
        if frames.shape[1] % step or frames.shape[2] % step:
            raise InputError(f"{self.halvings} halvings need sizes of multiples of {step} pixels, not "
                             f"{frames.shape[1]} × {frames.shape[2]}")
        call = DoubleConv.__call__
        if self.remat and train:
            call = nnx.remat(call, static_argnums=(3, 4))
        x, skipped = (frames - 0.5).astype(self.dtype), []
        for block in self.down:
            x = call(block, max_pool_2x2(x) if skipped else x, weight, train, axis_name)
            skipped.append(x)
        for block, skip in zip(reversed(self.up), reversed(skipped[:-1]), strict=True):
            x = call(block, jnp.concatenate([skip, upsampled(x)], axis=-1), weight, train, axis_name)
        return self.head(x).astype(jnp.float32)
