"""The convolutions of VGG16 and VGG19 (Simonyan & Zisserman 2014), up to the last activation asked for.

Weights are plain arrays by name: `conv1_1/kernel` (HWIO), `conv1_1/bias`, … `conv5_4/bias`; they are never trained.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cardiojax.ops.convolution import conv
from cardiojax.ops.pooling import max_pool_2x2

Kind = Literal["vgg16", "vgg19"]
DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)     # of ImageNet's RGB in [0, 1]
FIRST_OF_BLOCK = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def shapes(kind: Kind) -> dict[str, tuple[int, ...]]:
    """Name → shape of every weight."""
    out, fin = {}, 3
    for block, (depth, width) in enumerate(zip(DEPTHS[kind], WIDTHS, strict=True), 1):
        for i in range(1, depth + 1):
            out[f"conv{block}_{i}/kernel"], out[f"conv{block}_{i}/bias"] = (3, 3, fin, width), (width,)
            fin = width
    return out


def activations(weights: Mapping[str, Array | np.ndarray], images: Float[Array | np.ndarray, "n h w 3"],
                wanted: Sequence[str], dtype=jnp.float32) -> list[Float[Array, "n _ _ _"]]:
    """The activations `wanted` ("relu3_1", from shallow to deep). images: RGB scaled as the weights expect."""
    x, out = jnp.asarray(images, dtype), []
    for block in range(1, 6):
        i = 1
        while f"conv{block}_{i}/kernel" in weights:
            kernel, bias = (jnp.asarray(weights[f"conv{block}_{i}/{w}"], dtype) for w in ("kernel", "bias"))
            x = jax.nn.relu(conv(x, kernel) + bias)
            if f"relu{block}_{i}" in wanted:
                out.append(x)
            if len(out) == len(wanted):
                return out
            i += 1
        x = max_pool_2x2(x)
    raise ValueError(f"no such activations: {wanted}")


def imagenet_scaled(images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    """[−1, 1] → zero mean and unit variance over ImageNet, by channel."""
    return ((images + 1) / 2 - jnp.array(MEAN)) / jnp.array(STD)


def rgb(images: Float[Array, "n h w c"]) -> Float[Array, "n h w 3"]:
    """One channel three times; three as they are."""
    return jnp.broadcast_to(images, (*images.shape[:-1], 3)) if images.shape[-1] == 1 else images[..., :3]
