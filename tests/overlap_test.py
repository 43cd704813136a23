"""Masks against masks, cleaned masks, and ED and ES of a curve: numbers worked by hand."""

import numpy as np
import pytest

from cardiojax.evaluate.overlap import DiceSum, compared, dice, hausdorff95_mm, rows_of_masks, summary
from cardiojax.models.curve import Curve, found_phases
from cardiojax.models.masks import cleaned
from cardiojax.models.prediction import Prediction
from cardiojax.study import Study
from cardiojax.units import LV, MYOCARDIUM


def test_dice_by_hand():
    a, b = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    a[0, :2], b[0, 1:3] = True, True
    assert dice(a, b) == 0.5
    assert np.isnan(dice(a & False, b & False))
    assert dice(a, b & False) == 0
    total = DiceSum()
    total.add(a.astype(np.uint8), b.astype(np.uint8))
    assert total.means() == {"dice_LV": 0.5}


def test_hausdorff_by_hand():
    """Two cubes, one moved: along a row by 3 pixels of 2 mm, and by a slice of 10 mm."""
    a = np.zeros((8, 40, 40), bool)
    a[2:4, 10:20, 10:20] = True
    assert hausdorff95_mm(a, np.roll(a, 3, axis=2), (10.0, 1.0, 2.0)) == 6
    assert hausdorff95_mm(a, np.roll(a, 1, axis=0), (10.0, 1.0, 2.0)) == 10
    assert hausdorff95_mm(a, a, (10.0, 1.0, 2.0)) == 0
    assert np.isnan(hausdorff95_mm(a, a & False, (10.0, 1.0, 2.0)))


def ring(size=40):
    y, x = np.indices((size, size)) - 20
    radius = np.hypot(y, x)
    mask = np.zeros((size, size), np.uint8)
    mask[radius < 10], mask[radius < 7] = MYOCARDIUM, LV
    return mask


def test_specks_and_holes_go_and_nothing_else():
    clean = np.repeat(np.stack([ring()] * 3)[..., None], 2, axis=-1)
    dirty = clean.copy()
    dirty[1, 0, 0, 0] = LV
    dirty[0, 2:4, 2:4, 1] = MYOCARDIUM
    dirty[2, 20, 20, 0] = 0                                  # a hole in the LV
    np.testing.assert_array_equal(cleaned(dirty), clean)
    np.testing.assert_array_equal(cleaned(clean), clean)
    assert not cleaned(np.zeros((2, 5, 5, 2), np.uint8)).any()


def test_agreement_of_a_study_by_hand():
    masks = np.repeat(np.stack([ring()] * 3)[..., None], 2, axis=-1)
    truth = Study("a", np.zeros(masks.shape, np.uint8), 8.0, masks=masks)
    seen = masks.copy()
    seen[0, ..., 0] = 0                                      # the base is not seen at ED
    result = summary([compared(
        Prediction("a", 1, 1, 0, 1, 1, 1, rv_edv_ml=5.0, lv_mass_g=1.0, study=truth.replace(masks=seen)), truth)])
    assert result["masks"]["dice_LV_ed"] == {"mean": pytest.approx(2 * 2 / (2 + 3)), "n": 1}
    assert result["masks"]["dice_LV_es"]["mean"] == 1
    assert [result["masks"][f"dice_LV_ed_{level}"]["mean"] for level in ("base", "middle", "apex")] == [0, 1, 1]
    assert result["masks"]["hd95_mm_LV_ed"]["mean"] == 8
    assert "dice_RV_ed" not in result["masks"]               # the truth does not show it
    assert "rv_edv_ml" not in result["amounts"]
    pixels = np.count_nonzero(ring() == LV)
    assert result["amounts"]["edv_counted_ml"]["bias"] == pytest.approx(-pixels * 8 / 1000)
    mass = 3 * np.count_nonzero(ring() == MYOCARDIUM) * 8 / 1000 * 1.05
    assert result["amounts"]["lv_mass_g"]["bias"] == pytest.approx(1 - mass)
    assert rows_of_masks(result)[1][:3] == ["LV, ED", "0.800", "0.000"]


@pytest.mark.parametrize(("lv_ml", "expected"), [
    ([100, 80, 50, 40, 60, 90], (1, 4)),                     # as it mostly is
    ([90, 70, 50, 40, 60, 100], (6, 4)),                     # filled at the end of what was recorded
    ([99, 80, 50, 40, 60, 100], (1, 4)),                     # as large as the last: the R wave decides
    ([60, 100, 101, 99, 60, 40], (3, 6)),                    # the middle of a flat top
    ([100, 70, 41, 40, 41, 80], (1, 4)),                     # the middle of a flat bottom
    ([100, 70, 40, 41, 80, 90], (1, 4)),                     # of two the later
    ([99, 98, 99, 98, 40, 60, 99, 100], (1, 5)),             # flat through diastole: the R wave decides
    ([65, 66, 67, 65, 59, 53, 44, 37, 36, 36, 31, 39], (3, 11)),
    ([40, 100], (2, 1)),                                     # of two the larger is ED
    ([50, 50, 50, 50], (1, 2)),                              # nothing moves
])
def test_ed_and_es_of_a_curve(lv_ml, expected):
    assert found_phases(np.array(lv_ml, float)) == expected


def test_rates_are_slopes_and_need_times():
    """100 ml in 250 ms: 400 ml/s, both ways."""
    lv_ml = np.concatenate([np.linspace(150, 50, 26), np.linspace(50, 150, 26)[1:]])
    curve = Curve(lv_ml, lv_ml, lv_ml, 10.0 * np.arange(len(lv_ml)))
    np.testing.assert_allclose(curve.rates_ml_per_s(), [400, 400], rtol=0.01)
    assert Curve(lv_ml, lv_ml, lv_ml).rates_ml_per_s() is None
