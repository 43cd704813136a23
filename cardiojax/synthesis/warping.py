"""Images for a pair of masks without a generator: the real ones, warped along the change of the masks.

A control that the paper does not have. A cohort of such images has the same masks, volumes and EF as the GauGAN's, so
that a difference between networks trained on either is due to the images.
"""

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from cardiojax.study import Study
from cardiojax.synthesis.masks import LV, MYOCARDIUM

ANGLES = 72                # directions in which the edges of a region are looked for
STEP_PX = 0.25
SMOOTHING = 1.5            # of the radii, in directions: contours have corners of pixels
FAR_PX = 12.0              # beyond twice the largest radius and this, nothing moves


def warped(ancestor: Study, masks: UInt8[np.ndarray, "s h w 2"]) -> UInt8[np.ndarray, "s h w 2"]:
    """Frames that show `masks`, out of the ancestor's own (0–255, of the same slices).

    Each frame of each slice is made of that real frame of the slice whose LV is nearest in size: inside of the LV
    and its wall radii are scaled about the LV's centre, direction by direction; outside the move fades out. Where
    either of the two masks has no LV the image stays as it is.
    """
    assert ancestor.masks is not None
    out = np.empty_like(ancestor.frames)
    for s, (images, real, wanted) in enumerate(zip(ancestor.frames, ancestor.masks, masks, strict=True)):
        have = (real == LV).sum((0, 1))
        for t in (0, 1):
            size = (wanted[..., t] == LV).sum()
            source = int(np.argmin(np.abs(have - size)))
            if not size or not have[source]:
                out[s, ..., t] = images[..., source]
                continue
            at = _sources(wanted[..., t], real[..., source])
            out[s, ..., t] = ndimage.map_coordinates(images[..., source].astype(np.float32), at, order=1,
                                                     mode="nearest").round().astype(np.uint8)
    return out


def _sources(wanted: UInt8[np.ndarray, "h w"], real: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "2 h w"]:
    """Where in the real image each pixel of the wanted one comes from (row, column)."""
    centre, knots = _edges(wanted)
    real_centre, real_knots = _edges(real)
    far = np.full((1, ANGLES), 2 * max(knots.max(), real_knots.max()) + FAR_PX)
    knots, real_knots = (np.concatenate([np.zeros((1, ANGLES)), k, far]) for k in (knots, real_knots))
    rows, columns = np.indices(wanted.shape)
    y, x = rows - centre[0], columns - centre[1]
    r, turn = np.hypot(y, x), np.arctan2(y, x) / (2 * np.pi) % 1 * ANGLES
    radius, low, high = r.copy(), np.zeros_like(r), np.zeros_like(r)
    for i in range(len(knots) - 1):
        low, high, real_low, real_high = (_at(turn, k) for k in (knots[i], knots[i + 1], real_knots[i],
                                                                 real_knots[i + 1]))
        inside = (r >= low) & (r < high)
        share = (r - low) / np.maximum(high - low, 1e-6)
        radius = np.where(inside, real_low + share * (real_high - real_low), radius)
    moved = np.clip((high - r) / np.maximum(high - low, 1e-6), 0, 1)     # of the centre itself
    scale = radius / np.maximum(r, 1e-6)
    shift = real_centre - centre
    return np.stack([centre[0] + moved * shift[0] + y * scale, centre[1] + moved * shift[1] + x * scale])


def _edges(mask: UInt8[np.ndarray, "h w"]) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2 a"]]:
    """The LV's centre, and the radii of the LV and of its wall's outside in every direction (pixels)."""
    lv = mask == LV
    centre = np.argwhere(lv).mean(0)
    inner = _radii(lv, centre)
    outer = _radii(lv | (mask == MYOCARDIUM), centre)
    return centre, np.stack([inner, np.maximum(outer, inner)])


def _radii(region: np.ndarray, centre: np.ndarray) -> Float[np.ndarray, " a"]:
    """Of the outermost pixel of a region, in every direction; smoothed."""
    angle = np.arange(ANGLES) * 2 * np.pi / ANGLES
    steps = np.arange(0, max(region.shape), STEP_PX)
    at = centre[:, None, None] + np.stack([np.sin(angle), np.cos(angle)])[:, :, None] * steps
    there = ndimage.map_coordinates(region.astype(np.float32), at, order=1, mode="constant") > 0.5
    last = there.shape[1] - 1 - there[:, ::-1].argmax(1)
    return ndimage.gaussian_filter1d(np.where(there.any(1), steps[last], 0.5), SMOOTHING, mode="wrap")


def _at(turn: np.ndarray, values: Float[np.ndarray, " a"]) -> np.ndarray:
    """A value in every direction, linear between the `ANGLES` ones."""
    low = turn.astype(int) % ANGLES
    share = turn - np.floor(turn)
    return values[low] * (1 - share) + values[(low + 1) % ANGLES] * share
