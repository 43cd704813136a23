"""From areas to volumes: Simpson's rule, ejection fraction."""

import numpy as np
from jaxtyping import Float, Integer, Real

LABELS = ("background", "LV", "myocardium", "RV")
LV, MYOCARDIUM, RV = map(LABELS.index, ("LV", "myocardium", "RV"))

MYOCARDIUM_G_PER_ML = 1.05


def lv_area_mm2(masks: Integer[np.ndarray, "slices h w 2"], pixel_spacing_mm: tuple[float, float]
                ) -> Float[np.ndarray, "slices 2"]:
    """Area of the LV cavity on each slice at ED and ES, in mm²; `pixel_spacing_mm` is (row, column)."""
    pixels = np.stack([np.count_nonzero(masks[..., k] == LV, axis=(1, 2)) for k in range(2)], axis=-1)
    return pixels * float(pixel_spacing_mm[0] * pixel_spacing_mm[1])


def simpson_ml(area_mm2: Real[np.ndarray, "slices 2"], slice_spacing_mm: float) -> Float[np.ndarray, "2"]:
    """Volumes (EDV, ESV) in ml by Simpson's rule as the paper uses it: Σ area × slice distance.

    `slice_spacing_mm` is the distance between the centres of neighbouring slices, not their thickness.
    """
    return area_mm2.sum(axis=0) * slice_spacing_mm / 1000.0


def ef_percent(edv_ml, esv_ml):
    """Ejection fraction, 100 · (EDV − ESV) / EDV, in percent; NaN where EDV is not positive."""
    edv_ml, esv_ml = np.asarray(edv_ml, float), np.asarray(esv_ml, float)
    safe = np.where(edv_ml > 0, edv_ml, np.nan)
    return 100.0 * (safe - esv_ml) / safe
