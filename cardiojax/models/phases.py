"""ED and ES of a slice painted together: what a GauGAN of two phases takes as one label map and one image.

Painted one by one, as in the paper, the frames of a slice have backgrounds of their own ("Discussion"). One image of
both has a discriminator that sees where they differ.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from cardiojax.config import GauganNetConfig


def joined(labels: Integer[Array | np.ndarray, "n h w *p"], net: GauganNetConfig
           ) -> Integer[Array | np.ndarray, "n h w"]:
    """Of two phases ED + classes · ES, a label for each pair of labels; of one phase the labels as they are."""
    return labels if net.phases == 1 else labels[..., 0] + net.classes * labels[..., 1].astype(np.int32)


def labels_apart(labels: Integer[Array, "n h w"], net: GauganNetConfig) -> Integer[Array, "m h w"]:
    """`joined` labels as those of single frames, each slice's ED before its ES."""
    if net.phases == 1:
        return labels
    return jnp.stack([labels % net.classes, labels // net.classes], axis=1).reshape(-1, *labels.shape[1:])


def images_apart(images: Float[Array, "n h w pc"], net: GauganNetConfig) -> Float[Array, "m h w c"]:
    """Images of one or two phases as single frames, in the order of `labels_apart`."""
    if net.phases == 1:
        return images
    n, h, w, _ = images.shape
    return jnp.moveaxis(images.reshape(n, h, w, net.phases, net.channels), 3, 1).reshape(-1, h, w, net.channels)
