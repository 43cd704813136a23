"""A trained contours network as part of a generator's loss: the mask that was painted must be found in the image."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cardiojax.config import GauganNetConfig
from cardiojax.errors import RunError
from cardiojax.models.contours import ContoursModel
from cardiojax.models.looks import centroid, crop
from cardiojax.preparation import SIZE_PX
from cardiojax.units import LABELS


@dataclasses.dataclass(frozen=True)
class MaskReader:
    """Images in [−1, 1] and the labels they were painted from → logits and labels, 128 × 128 mm round the heart.

    The second look of a `ContoursModel`, frozen, where the labels say that the heart is. Images of 75 × 75 pixels are
    doubled, as they are for the records. known: the labels that it was taught.
    """

    weights: Any
    graph: nnx.GraphDef
    size_px: int
    known: tuple[bool, ...]

    def __call__(self, weights, images: Float[Array, "n h w c"], labels: Int[Array, "n h w"]
                 ) -> tuple[Float[Array, "n 128 128 4"], Float[Array, "n 128 128 4"], Bool[Array, "n 4"]]:
        """Logits; each label's share of a pixel, those that are not known as background; known."""
        known = jnp.array(self.known)
        gray = self._at_1_mm((images.mean(-1) + 1) / 2, "linear")
        labels = self._at_1_mm(labels, "nearest")
        labels = jnp.where(known[labels], labels, 0)
        heart = (labels > 0) * 1.0
        centre_px = jnp.round(jax.vmap(centroid)(heart)).astype(jnp.int32)
        planes = jnp.concatenate([gray[..., None], jax.nn.one_hot(labels, len(LABELS))], axis=-1)
        cut = jax.vmap(crop)(planes[:, None], centre_px)[:, 0]
        shares = cut[..., 1:].at[..., 0].add(1 - cut[..., 1:].sum(-1))             # beyond the image is background
        net = nnx.merge(self.graph, *weights, copy=True)["fine"]
        return net(cut[..., :1], jnp.ones(len(cut))), shares, jnp.broadcast_to(known, (len(cut), len(LABELS)))

    def _at_1_mm(self, images: Array, method: str) -> Array:
        """The run's own pixels, without the padding that its network needs, as 150 × 150."""
        low = (images.shape[1] - self.size_px) // 2
        own = images[:, low:low + self.size_px, low:low + self.size_px]
        return own if self.size_px == SIZE_PX else jax.image.resize(own, (len(own), SIZE_PX, SIZE_PX), method)


def load(run: str, net: GauganNetConfig) -> MaskReader | None:
    """Of a contours run's folder, None of "none". Raises RunError where it cannot read this generator's images."""
    if run == "none":
        return None
    model = ContoursModel.load(Path(run))
    if model.config.net.neighbours:
        raise RunError(f"{run} sees neighbouring slices too, and a generator makes one image at a time")
    if net.size_px not in (SIZE_PX, SIZE_PX // 2):
        raise RunError(f"{run} reads images of {SIZE_PX} or {SIZE_PX // 2} pixels, not {net.size_px}")
    return MaskReader((model.params, model.stats), model.graph, net.size_px,
                      tuple(label in model.labels for label in range(len(LABELS))))
