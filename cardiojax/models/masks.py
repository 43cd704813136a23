"""Label images as people look at them: without specks and holes."""

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from cardiojax.units import LABELS, LV, MYOCARDIUM

EVERYWHERE = np.ones((3, 3, 3))          # pixels that touch, also at a corner or on the next slice


def cleaned(masks: UInt8[np.ndarray, "s h w t"]) -> UInt8[np.ndarray, "s h w t"]:
    """Of each label only the largest piece that hangs together across the slices of a phase, and no holes in the LV and
    its wall: what they enclose is LV. For pictures; volumes are measured by probabilities, before any of this."""
    out = np.zeros_like(masks)
    for t in range(masks.shape[-1]):
        stack = masks[..., t]
        for label in range(1, len(LABELS)):
            pieces = np.zeros(stack.shape, np.int32)
            ndimage.label(stack == label, EVERYWHERE, output=pieces)
            sizes = np.bincount(pieces.ravel())[1:]
            if len(sizes):
                out[..., t][pieces == 1 + sizes.argmax()] = label
        for s in range(len(masks)):
            heart = (out[s, ..., t] == LV) | (out[s, ..., t] == MYOCARDIUM)
            out[s, ..., t][ndimage.binary_fill_holes(heart) & ~heart] = LV
    return out
