"""How many rows a GauGAN's tables of γ and β need (`ops.lookup`), counted on masks as training moves them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from cardiojax.config import GauganConfig
from cardiojax.data.frames import Frames
from cardiojax.models.gaugan import padded
from cardiojax.models.phases import joined
from cardiojax.nets.gaugan import padded_px, sides
from cardiojax.ops.host import on_host
from cardiojax.ops.neighbourhoods import in_order
from cardiojax.preparation.augment import augment_frames, study_keys

SAMPLED = 4                # batches that are counted
MARGIN = 1.5               # times the most that any of them has
WORTHWHILE = 0.25          # of the pixels: with more rows than that, every pixel is computed
FROM_PX = 32               # below, a label map has hardly fewer neighbourhoods than pixels


def table_rows(frames: Frames, config: GauganConfig, batch: int) -> dict[int, int]:
    """Rows by the side of the label maps, for batches of this many images; the same in every process."""
    with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"), on_host():      # while a step is traced
        counts = [jax.device_get(_counted(config, jax.random.key(seed), _masks(frames, config, batch, seed)))
                  for seed in range(SAMPLED)]
    found = {}
    for side in counts[0]:
        rows = 256 * -(-int(MARGIN * max(int(c[side]) for c in counts)) // 256)
        if rows <= WORTHWHILE * batch * side * side:
            found[side] = rows
    return found


def no_rows(batch: int) -> dict[int, int]:
    """No tables: γ and β are computed for every pixel."""
    del batch
    return {}


def _masks(frames: Frames, config: GauganConfig, batch: int, seed: int) -> UInt8[np.ndarray, "n h w *p"]:
    drawn = np.random.default_rng(seed).choice(len(frames), batch, replace=len(frames) < batch)
    return frames.batch(drawn, config.net.size_px).masks


@functools.partial(jax.jit, static_argnums=0)
def _counted(config: GauganConfig, key: Array, masks: UInt8[Array, "n h w *p"]) -> dict[int, Int[Array, ""]]:
    """Neighbourhoods by side of the maps, of masks moved as a step moves them."""
    keys, upsamplings = study_keys(key, len(masks), 0), config.net.upsamplings
    _, moved = augment_frames(keys, masks, masks, config.augment)
    labels = joined(padded(moved, padded_px(config.net.size_px, upsamplings), "constant").astype(jnp.int32), config.net)
    side = labels.shape[1]
    return {s: in_order(labels[:, ::side // s, ::side // s], config.net.joined_classes)[1].sum()
            for s in sides(side, upsamplings) if s >= FROM_PX}
