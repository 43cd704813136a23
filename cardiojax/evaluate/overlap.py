"""How masks agree with masks: Dice, and the 95 % Hausdorff distance."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from cardiojax.evaluate.metrics import agreement
from cardiojax.models.masks import cleaned
from cardiojax.models.prediction import Prediction
from cardiojax.study import Study
from cardiojax.units import LABELS, LV, MYOCARDIUM, MYOCARDIUM_G_PER_ML, RV

PHASES = ("ed", "es")
LEVELS = ("base", "middle", "apex")
AMOUNTS = {"rv_edv_ml": "RV EDV (ml)", "rv_esv_ml": "RV ESV (ml)", "lv_mass_g": "LV mass (g)",
           "edv_counted_ml": "EDV by counting pixels (ml)", "esv_counted_ml": "ESV by counting pixels (ml)"}


@dataclasses.dataclass
class DiceSum:
    """Gathers pixels of label masks; the Dice of each label over all of them together."""

    both: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(len(LABELS)))
    sizes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(len(LABELS)))

    def add(self, seen: UInt8[np.ndarray, "*s"], truth: UInt8[np.ndarray, "*s"]):
        for label in range(len(LABELS)):
            a, b = seen == label, truth == label
            self.both[label] += np.count_nonzero(a & b)
            self.sizes[label] += np.count_nonzero(a) + np.count_nonzero(b)

    def means(self) -> dict[str, float]:
        """`dice_LV` and so on, of the labels that there are."""
        return {f"dice_{name}": 2 * self.both[i] / self.sizes[i]
                for i, name in enumerate(LABELS) if i and self.sizes[i]}


def dice(seen: Bool[np.ndarray, "*s"], truth: Bool[np.ndarray, "*s"]) -> float:
    """2 |A ∩ B| / (|A| + |B|); NaN where both are empty."""
    sizes = np.count_nonzero(seen) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(seen & truth) / sizes if sizes else float("nan")


def hausdorff95_mm(seen: Bool[np.ndarray, "s h w"], truth: Bool[np.ndarray, "s h w"],
                   spacing_mm: tuple[float, float, float]) -> float:
    """The larger of both 95 % quantiles of the distances from one surface to the other, in mm; NaN where one has none.

    A voxel is on the surface where a face of it is not inside.
    """
    if not seen.any() or not truth.any():
        return float("nan")

    def surface(mask: np.ndarray) -> np.ndarray:
        return mask > np.asarray(ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1)))

    def far(from_surface: np.ndarray, surface: np.ndarray) -> float:
        away_mm = np.asarray(ndimage.distance_transform_edt(np.logical_not(surface), spacing_mm))
        return float(np.quantile(away_mm[from_surface], 0.95))

    a, b = surface(seen), surface(truth)
    return max(far(a, b), far(b, a))


def agreement_of_masks(seen: UInt8[np.ndarray, "s h w 2"], truth: UInt8[np.ndarray, "s h w 2"],
                       spacing_mm: tuple[float, float, float], labels: Sequence[int]) -> dict[str, float]:
    """Of one study: `dice_LV_ed`, `hd95_mm_LV_ed` (3D) and so on, and the Dice by thirds of the slices that hold the
    label, `dice_LV_ed_base`. NaN where neither mask has the label there."""
    out = {}
    for label in labels:
        for t, phase in enumerate(PHASES):
            a, b = seen[..., t] == label, truth[..., t] == label
            key = f"{LABELS[label]}_{phase}"
            out[f"dice_{key}"], out[f"hd95_mm_{key}"] = dice(a, b), hausdorff95_mm(a, b, spacing_mm)
            shown = np.flatnonzero((a | b).any(axis=(1, 2)))
            for level, part in zip(LEVELS, np.array_split(shown, 3), strict=True):
                out[f"dice_{key}_{level}"] = dice(a[part], b[part]) if len(part) else float("nan")
    return out


def compared(prediction: Prediction, truth: Study) -> dict[str, dict]:
    """A study that was measured by contours beside its own masks, in plain numbers.

    truth: the prepared study with its own masks; prediction: of it. Returns masks, masks_before_cleaning
    (`agreement_of_masks`) and amounts: (seen, true) of RV volumes, LV mass (at ED), and of the LV's volumes by counting
    the pixels of the cleaned masks.
    """
    assert prediction.study is not None
    seen, true_masks = prediction.study.masks, truth.masks
    assert seen is not None
    assert true_masks is not None
    labels = [label for label in np.unique(true_masks).tolist() if label]
    spacing_mm = (truth.slice_spacing_mm, *truth.pixel_spacing_mm)
    clean, voxel_ml = cleaned(seen), float(np.prod(spacing_mm)) / 1000
    amounts = {}

    def pair(name: str, value: float | None, label: int, t: int, density: float = 1.0):
        if label in labels and value is not None:
            amounts[name] = (value, density * voxel_ml * np.count_nonzero(true_masks[..., t] == label))

    pair("rv_edv_ml", prediction.rv_edv_ml, RV, 0)
    pair("rv_esv_ml", prediction.rv_esv_ml, RV, 1)
    pair("lv_mass_g", prediction.lv_mass_g, MYOCARDIUM, 0, MYOCARDIUM_G_PER_ML)
    for t, phase in enumerate(PHASES):
        pair(f"{phase}v_counted_ml", voxel_ml * np.count_nonzero(clean[..., t] == LV), LV, t)
    return {"masks": agreement_of_masks(clean, true_masks, spacing_mm, labels),
            "masks_before_cleaning": agreement_of_masks(seen, true_masks, spacing_mm, labels), "amounts": amounts}


def summary(studies: Sequence[dict[str, dict]]) -> dict[str, dict]:
    """Of studies as `compared` says them. masks, masks_before_cleaning: means over those that have the label, with how
    many; amounts: agreement."""
    pairs = {name: [s["amounts"][name] for s in studies if name in s["amounts"]] for name in AMOUNTS}
    return {**{key: _means([s[key] for s in studies]) for key in ("masks", "masks_before_cleaning")},
            "amounts": {name: agreement(*np.array(found).T) for name, found in pairs.items() if found}}


def _means(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    out = {}
    for key in dict.fromkeys(k for row in rows for k in row):
        values = np.array([row[key] for row in rows if np.isfinite(row.get(key, np.nan))])
        if len(values):
            out[key] = {"mean": float(values.mean()), "n": len(values)}
    return out


def rows_of_masks(result: dict) -> list[list[str]]:
    """`summary` as rows of text, a header first: Dice (by thirds of the slices) and distances."""
    def said(key, form="{:.3f}"):
        return form.format(result["masks"][key]["mean"]) if key in result["masks"] else ""

    rows = [["", "Dice", *LEVELS, "HD95 (mm)", "Dice before cleaning"]]
    for name in LABELS[1:]:
        for phase in PHASES:
            key = f"{name}_{phase}"
            if f"dice_{key}" in result["masks"]:
                before = result["masks_before_cleaning"][f"dice_{key}"]["mean"]
                rows.append([f"{name}, {phase.upper()}", said(f"dice_{key}"),
                             *(said(f"dice_{key}_{level}") for level in LEVELS), said(f"hd95_mm_{key}", "{:.1f}"),
                             f"{before:.3f}"])
    return rows


def rows_of_amounts(result: dict) -> list[list[str]]:
    """RV volumes, LV mass, and volumes by counting, a header first."""
    rows = [["", "RMSE", "MAE", "r", "bias"]]
    for key, name in AMOUNTS.items():
        if a := result["amounts"].get(key):
            rows.append([name, f"{a['rmse']:.1f}", f"{a['mae']:.1f}", f"{a['r']:.2f}", f"{a['bias']:+.1f}"])
    return rows
