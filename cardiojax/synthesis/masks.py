"""Pairs of masks with another ejection fraction, from the ED and ES masks of real patients (paper, Methods).

Interpolation between ED and ES lowers the EF; shrinking ES and growing ED raises it. Everything works on signed
distances of nested regions, so that labels stay nested and disjoint.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from cardiojax import units
from cardiojax.study import ED, ES
from cardiojax.units import LABELS

LV, MYOCARDIUM, RV = (LABELS.index(name) for name in ("LV", "myocardium", "RV"))
SPACING_MM = 8.0           # between synthetic slices: "a constant slice thickness of 8 mm, and no gaps"
STEPS = 12                 # 11 masks strictly between ED and ES
SCALES = 13                # pairs of scaled masks
SMALLEST_ES, LARGEST_ED = 0.7, 1.2
NOWHERE = 1e-4             # a vanished region is a point, less this: on the frame itself not even that
FAR = -1e3                 # signed distance of a region that is not there at all (pixels)


@dataclasses.dataclass(frozen=True, order=True)
class Recipe:
    """How a pair is made, on a grid `density` times as fine as the paper's.

    low_es: ED as it is, the `step`-th of 12 · density − 1 interpolated masks as ES (step 1 is next to ES); low_ed: an
    interpolated mask as ED, ES as it is; high: the `step`-th of 13 · density scalings, mild to strong.
    """

    kind: Literal["low_es", "low_ed", "high"]
    step: int
    density: int = 1


def recipes(density: int = 1) -> list[Recipe]:
    """All pairs of a patient: 11 + 11 + 13 at density 1."""
    between, scalings = range(1, STEPS * density), range(1, SCALES * density + 1)
    return [Recipe(kind, i, density) for kind, steps in (("low_es", between), ("low_ed", between), ("high", scalings))
            for i in steps]


class Shapes:
    """The masks of one patient as signed distances (pixels, ≥ 0 inside) of LV, LV ∪ myocardium, and RV.

    A region that is missing on one of ED and ES is a point there, at the deepest place of what is on the other one:
    between the two it shrinks and vanishes instead of jumping.
    """

    def __init__(self, masks: UInt8[np.ndarray, "s h w 2"]):
        self.masks = masks
        self.window = _window((masks > 0).any(axis=(0, 3)))
        cut = masks[:, *self.window]
        self.distances = np.stack([_distances(slice_) for slice_ in cut], axis=2)           # (2, 3, S, h, w)
        self.centres = np.stack([_centres(slice_) for slice_ in cut], axis=1)               # (2, S, 2): row, column

    def pair(self, recipe: Recipe) -> UInt8[np.ndarray, "s h w 2"]:
        """The ED and ES masks of a recipe."""
        masks = np.zeros_like(self.masks)
        masks[:, *self.window] = np.stack([_labels(d) for d in self._regions(recipe, slice(None))], axis=-1)
        return masks

    def volumes_ml(self, recipe: Recipe) -> Float[np.ndarray, "2"]:
        """`volumes_ml` of a recipe's masks, (EDV, ESV), of which the LV alone is made."""
        areas = np.stack([np.count_nonzero(lv >= 0, axis=(0, 2, 3)) for lv in self._regions(recipe, slice(0, 1))], -1)
        return units.simpson_ml(areas, SPACING_MM)

    def _regions(self, recipe: Recipe, which: slice) -> tuple[np.ndarray, np.ndarray]:
        """Signed distances of some of the regions at the ED and the ES of a recipe."""
        if recipe.kind == "high":
            count = SCALES * recipe.density
            return (self.scaled(ED, 1 + recipe.step * (LARGEST_ED - 1) / (count + 1), which),
                    self.scaled(ES, 1 - recipe.step * (1 - SMALLEST_ES) / count, which))
        between = self.interpolated(recipe.step / (STEPS * recipe.density), which)
        return ((self.distances[ED, which], between) if recipe.kind == "low_es" else
                (between, self.distances[ES, which]))

    def interpolated(self, towards_ed: float, which: slice = slice(None)) -> Float[np.ndarray, "r s h w"]:
        """IM = α · SDT(ED) + (1 − α) · SDT(ES); the paper's formula prints the weight of ED twice."""
        weight = np.float32(towards_ed)
        return weight * self.distances[ED, which] + (1 - weight) * self.distances[ES, which]

    def scaled(self, frame: int, factor: float, which: slice = slice(None)) -> Float[np.ndarray, "r s h w"]:
        """Every structure of a frame scaled about the centroid of the LV of its slice."""
        return np.stack([_scaled(_scaled(slice_, 1, row, factor), 2, column, factor)
                         for slice_, (row, column) in zip(self.distances[frame, which].swapaxes(0, 1),
                                                          self.centres[frame], strict=True)], axis=1)


def volumes_ml(masks: UInt8[np.ndarray, "s h w 2"]) -> Float[np.ndarray, "2"]:
    """(EDV, ESV) of 1 mm masks by Simpson's rule, 8 mm between slices."""
    return units.simpson_ml(units.lv_area_mm2(masks, (1.0, 1.0)), SPACING_MM)


def _window(labelled: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold the heart and a margin for its growth; nothing changes outside of them."""
    window = []
    for axis in (1, 0):
        at = np.flatnonzero(labelled.any(axis=axis))
        low, high = (at[0], at[-1] + 1) if len(at) else (0, 1)
        margin = int(np.ceil((high - low) * (LARGEST_ED - 1))) + 2
        window.append(slice(max(0, low - margin), min(len(labelled), high + margin)))
    return tuple(window)


def _distances(masks: UInt8[np.ndarray, "h w 2"]) -> Float[np.ndarray, "2 3 h w"]:
    """Signed distances of the three regions of one slice at ED and ES."""
    frames = masks.transpose(2, 0, 1)
    regions = np.stack([frames == LV, (frames == LV) | (frames == MYOCARDIUM), frames == RV], axis=1)
    there = np.asarray(regions.any(axis=(2, 3)))
    out = np.full(regions.shape, FAR, np.float32)
    for t, r in np.argwhere(there):
        out[t, r] = signed_distance(regions[t, r])
    for t, r in np.argwhere(~there & there[::-1]):
        other = 0 if r == 1 and there[1 - t, 0] else r        # a wall vanishes where its cavity does
        row, column = np.unravel_index(out[1 - t, other].argmax(), masks.shape[:2])
        y, x = np.ogrid[:masks.shape[0], :masks.shape[1]]
        out[t, r] = -np.hypot(y - row, x - column) - NOWHERE
    return out


def signed_distance(region: np.ndarray) -> Float[np.ndarray, "h w"]:
    """Pixels to the edge of a region that is not empty: positive inside, negative outside, ± ½ next to the edge."""
    inside = np.asarray(ndimage.distance_transform_edt(np.pad(region, 1, mode="edge")))[1:-1, 1:-1]
    outside = np.asarray(ndimage.distance_transform_edt(~region))
    return np.where(region, inside - 0.5, 0.5 - outside).astype(np.float32)


def _centres(masks: UInt8[np.ndarray, "h w 2"]) -> Float[np.ndarray, "2 2"]:
    """Centroid of the LV at ED and ES; where it is missing, the other frame's, or that of whatever is there."""
    found = []
    for t in (ED, ES):
        choices = masks[..., t] == LV, masks[..., 1 - t] == LV, (masks > 0).any(-1), np.ones(masks.shape[:2], bool)
        found.append(np.argwhere(next(c for c in choices if c.any())).mean(0))
    return np.array(found)


def _scaled(x: np.ndarray, axis: int, centre: float, factor: float) -> np.ndarray:
    """Scaled about `centre` along one axis by linear interpolation, the ends held."""
    size = x.shape[axis]
    at = np.clip(centre + (np.arange(size) - centre) / factor, 0, size - 1)
    low = np.minimum(at.astype(int), size - 2)
    share = (at - low).astype(np.float32).reshape(-1, *[1] * (x.ndim - axis - 1))
    return np.take(x, low, axis) * (1 - share) + np.take(x, low + 1, axis) * share


def _labels(distances: Float[np.ndarray, "3 s h w"]) -> UInt8[np.ndarray, "s h w"]:
    """Labels of the three regions: the LV wins over the myocardium, and that over the RV."""
    lv, outer, rv = distances >= 0
    return np.select([lv, outer, rv], [LV, MYOCARDIUM, RV]).astype(np.uint8)
