"""Synthetic images beside the real ones of the same masks, as pixels."""

import numpy as np
from jaxtyping import Float, Integer, UInt8

from cardiojax.data.frames import FrameBatch
from cardiojax.models.gaugan import GauganModel
from cardiojax.preparation.batch import single_frames

MASK_COLOURS = np.array([(20, 20, 28), (214, 64, 69), (88, 180, 110), (66, 120, 200)], np.uint8)   # by label


def generated(generator: GauganModel, examples: FrameBatch
              ) -> tuple[Float[np.ndarray, "n h w"], Float[np.ndarray, "n h w"]]:
    """Synthetic and real single frames in [−1, 1], gray, of the same masks."""
    return single_frames(generator.gray(examples.masks)), single_frames(examples.images / 127.5 - 1)


def sample_grid(masks: Integer[np.ndarray, "n h w"], fakes: Float[np.ndarray, "n h w"],
                reals: Float[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "h3 nw 3"]:
    """Columns of mask, synthetic and real image: (N, H, W) labels and images in [−1, 1] → (3H, NW, 3) uint8."""
    rows = [MASK_COLOURS[masks % len(MASK_COLOURS)]]
    rows += [np.repeat(((np.clip(i, -1, 1) + 1) * 127.5).round().astype(np.uint8)[..., None], 3, -1)
             for i in (fakes, reals)]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
