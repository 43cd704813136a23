"""One background for the ED and ES frames of a synthetic study, and a measure of how far two frames differ outside of
the heart. In the paper the background changes between them ("Discussion")."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from cardiojax.study import ED, ES, Study

CLEAR_MM = 8.0             # of the heart on either frame: further out is background
BLEND_MM = 8.0             # over which the frames' own images give way to the common background


def steady_background(frames: Float[np.ndarray, "s h w 2"], masks: UInt8[np.ndarray, "s h w 2"]
                      ) -> Float[np.ndarray, "s h w 2"]:
    """Both frames with their mean as background, blended into their own images towards the heart (1 mm pixels)."""
    common = frames.mean(-1)
    out = np.empty_like(frames)
    for s, mask in enumerate(masks):
        own = np.clip(1 - (_clearance_mm(mask) - CLEAR_MM) / BLEND_MM, 0, 1)[..., None].astype(frames.dtype)
        out[s] = own * frames[s] + (1 - own) * common[s, ..., None]
    return out


def _clearance_mm(masks: UInt8[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w"]:
    """Distance of each pixel from the heart of either frame; infinite where the slice shows none."""
    heart = (masks > 0).any(-1)
    return ndimage.distance_transform_edt(~heart) if heart.any() else np.full(heart.shape, np.inf)


def background_difference(studies: Iterable[Study]) -> float:
    """Mean |ED − ES| outside of the heart of either frame (by 8 mm and more), in shares of the intensity range."""
    total = pixels = 0.0
    for study in studies:
        assert study.masks is not None
        for frames, masks in zip(study.frames, study.masks, strict=True):
            outside = (_clearance_mm(masks) >= CLEAR_MM) & (frames.max(-1) > 0)        # black: padding of the crop
            total += np.abs(frames[..., ED].astype(float) - frames[..., ES])[outside].sum()
            pixels += outside.sum()
    return total / max(pixels, 1) / 255
