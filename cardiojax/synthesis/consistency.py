"""One background for the ED and ES frames of a synthetic study, and measures of how far two frames, or two slices that
are neighbours, differ outside of the heart. In the paper the background changes between them ("Discussion")."""

import itertools
from collections.abc import Iterable, Iterator

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
    return _mean_difference((frames, masks) for study in studies for frames, masks in _slices(study))


def slice_difference(studies: Iterable[Study]) -> float:
    """The same of neighbouring slices, of ED and of ES."""
    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for slices in map(_slices, studies):
            for (frames, masks), (next_frames, next_masks) in itertools.pairwise(slices):
                for t in (ED, ES):
                    yield (np.stack([frames[..., t], next_frames[..., t]], -1),
                           np.stack([masks[..., t], next_masks[..., t]], -1))

    return _mean_difference(pairs())


def _slices(study: Study) -> Iterator[tuple[UInt8[np.ndarray, "h w 2"], UInt8[np.ndarray, "h w 2"]]]:
    assert study.masks is not None
    return zip(study.frames, study.masks, strict=True)


def _mean_difference(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Of the two images (h, w, 2) of each pair, away from what either's mask labels."""
    total = pixels = 0.0
    for images, masks in pairs:
        outside = (_clearance_mm(masks) >= CLEAR_MM) & (images.max(-1) > 0)            # black: padding of the crop
        total += np.abs(images[..., 0].astype(float) - images[..., 1])[outside].sum()
        pixels += outside.sum()
    return total / max(pixels, 1) / 255
