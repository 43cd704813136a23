"""Volumes over the cycle → ED and ES, ejection and filling rates."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from cardiojax.grid import Grid

FLAT = 0.05                # of the stroke volume: phases that differ by less count as equally large
LONG = 0.4                 # of the cycle


@dataclasses.dataclass(frozen=True)
class Curve:
    """Volumes (T,) in ml of the LV, its wall and the RV in every phase; phase_ms (T,) after the R wave, or None.

    labels: (S, 150, 150, T) uint8, what was seen, and grid: where that lies; None of a curve made by hand.
    """

    lv_ml: np.ndarray
    myocardium_ml: np.ndarray
    rv_ml: np.ndarray
    phase_ms: np.ndarray | None = None
    labels: np.ndarray | None = None
    grid: Grid | None = None

    def rates_ml_per_s(self) -> tuple[float, float] | None:
        """Peak ejection rate and peak filling rate, both positive; None where the phases' times are not known."""
        if self.phase_ms is None or len(self.lv_ml) < 4:
            return None
        smooth = ndimage.gaussian_filter1d(self.lv_ml, 1.0, mode="wrap")
        slope = np.gradient(smooth, self.phase_ms / 1000)
        return float(-slope.min()), float(slope.max())


def found_phases(lv_ml: Float[np.ndarray, " t"]) -> tuple[int, int]:
    """1-based ED and ES: the largest and the smallest LV.

    Neighbours that differ from it by less than `FLAT` count as equally large or small, and the middle one of them is
    taken, of two the later. A top that is flat for most of diastole (`LONG`) says too little: there ED is the first
    phase, which the R wave starts, where that is one of them.
    """
    lv_ml = np.asarray(lv_ml, np.float64)
    if not np.ptp(lv_ml):
        return 1, 2
    flat = FLAT * (lv_ml.max() - lv_ml.min())
    top, bottom = _neighbours(lv_ml >= lv_ml.max() - flat, int(lv_ml.argmax())), _neighbours(
        lv_ml <= lv_ml.min() + flat, int(lv_ml.argmin()))
    ed = 0 if 0 in top and len(top) > LONG * len(lv_ml) else top[len(top) // 2]
    return ed + 1, bottom[len(bottom) // 2] + 1


def _neighbours(flat: Bool[np.ndarray, " t"], start: int) -> list[int]:
    """The phases round `start` that are `flat` without a gap, round the cycle, in order of time."""
    phases = len(flat)
    before, after = 0, 0
    while before + 1 < phases and flat[(start - before - 1) % phases]:
        before += 1
    while before + after + 1 < phases and flat[(start + after + 1) % phases]:
        after += 1
    return [(start + i) % phases for i in range(-before, after + 1)]
