"""Layers that SFERA and the U-Net share: a convolution without bias, batch normalisation that leaves padding out."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from cardiojax.nets.draws import he
from cardiojax.ops.convolution import conv

MOMENTUM = 0.9             # share of the old value in the running statistics


class MaskedBatchNorm(nnx.Module):
    """Batch normalisation whose statistics weigh each image by `weight` (0 for padding), summed over replicas.

    Kept are the running mean and mean square, so that statistics of several batches average exactly. Their difference
    is the variance: the sums are of full float32 precision, also where a GPU's default is TF32.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5):
        self.scale, self.bias = (nnx.Param(f(channels, np.float32)) for f in (np.ones, np.zeros))
        self.mean, self.square = (nnx.BatchStat(f(channels, np.float32)) for f in (np.zeros, np.ones))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "n h w c"], weight: Float[Array, " n"], train: bool,
                 axis_name: str | None = None) -> Float[Array, "n h w c"]:
        mean, square = self.mean[...], self.square[...]
        if train:
            x32 = x.astype(jnp.float32)
            count = weight.sum() * (x.shape[1] * x.shape[2])
            total, total_square = (jnp.einsum("nhwc,n->c", values, weight, precision=jax.lax.Precision.HIGHEST)
                                   for values in (x32, x32 * x32))
            if axis_name is not None:
                count, total, total_square = jax.lax.psum((count, total, total_square), axis_name)
            share = 1 / jnp.maximum(count, 1.0)             # a division less for every channel, forward and back
            mean, square = total * share, total_square * share
            for running, new in ((self.mean, mean), (self.square, square)):
                running.set_value(MOMENTUM * running[...] + (1 - MOMENTUM) * jax.lax.stop_gradient(new))
        variance = jnp.maximum(square - mean**2, 0.0)
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        return x * factor.astype(x.dtype) + (self.bias[...] - mean * factor).astype(x.dtype)


class Conv(nnx.Module):
    """A convolution without bias ("SAME"): a float32 kernel, computed in `dtype`."""

    def __init__(self, fin: int, fout: int, side: int, dtype, rngs: nnx.Rngs):
        self.kernel = nnx.Param(he(rngs, (side, side, fin, fout)))
        self.dtype = dtype

    def __call__(self, x):
        return conv(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
