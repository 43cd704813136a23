"""How many rows a GauGAN's tables of γ and β need (`ops.lookup`), counted on masks as training moves them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cardiojax.config import GauganConfig
from cardiojax.data.frames import Frames
from cardiojax.models.gaugan import padded
from cardiojax.nets.gaugan import Upsamplings, padded_px, sides
from cardiojax.ops.neighbourhoods import in_order
from cardiojax.preparation.augment import augment_frames, study_keys

SAMPLED = 4                # batches that are counted
MARGIN = 1.5               # times the most that any of them has
WORTHWHILE = 0.25          # of the pixels: with more rows than that, every pixel is computed
FROM_PX = 32               # below, a label map has hardly fewer neighbourhoods than pixels


def table_rows(frames: Frames, config: GauganConfig, batch: int) -> dict[int, int]:
    """Rows by the side of the label maps, for batches of this many images; the same in every process."""
    with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):          # while a step is traced
        counts = [_counted(_labels(frames, config, batch, i), config.net.upsamplings, config.net.classes)
                  for i in range(SAMPLED)]
    found = {}
    for side in counts[0]:
        rows = 256 * -(-int(MARGIN * max(int(c[side]) for c in counts)) // 256)
        if rows <= WORTHWHILE * batch * side * side:
            found[side] = rows
    return found


def _labels(frames: Frames, config: GauganConfig, batch: int, seed: int):
    drawn = frames.batch(np.random.default_rng(seed).choice(len(frames), batch, replace=len(frames) < batch),
                         config.net.size_px)
    drawn = jax.tree.map(jnp.asarray, drawn)
    _, labels = augment_frames(study_keys(jax.random.key(seed), batch, 0), drawn.images, drawn.masks, config.augment)
    return padded(labels, padded_px(config.net.size_px, config.net.upsamplings), "constant").astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _counted(labels, upsamplings: Upsamplings, classes: int) -> dict[int, jax.Array]:
    side = labels.shape[1]
    return {s: in_order(labels[:, ::side // s, ::side // s], classes)[1].sum() for s in sides(side, upsamplings)
            if s >= FROM_PX}
