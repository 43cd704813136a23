"""Synthetic images beside real ones, as pixels."""

import numpy as np
from jaxtyping import Float, Integer, UInt8

MASK_COLOURS = np.array([(20, 20, 28), (214, 64, 69), (88, 180, 110), (66, 120, 200)], np.uint8)   # by label


def sample_grid(masks: Integer[np.ndarray, "n h w"], fakes: Float[np.ndarray, "n h w"],
                reals: Float[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "h3 nw 3"]:
    """Columns of mask, synthetic and real image: (N, H, W) labels and images in [−1, 1] → (3H, NW, 3) uint8."""
    rows = [MASK_COLOURS[masks % len(MASK_COLOURS)]]
    rows += [np.repeat(((np.clip(i, -1, 1) + 1) * 127.5).round().astype(np.uint8)[..., None], 3, -1)
             for i in (fakes, reals)]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
