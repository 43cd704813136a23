import numpy as np
import pytest

from cardiojax import units
from cardiojax.errors import StudyError
from cardiojax.study import Study


def masks_of(areas_px):
    """(S, 2) pixel counts → masks of 10 × 10 with that many LV pixels."""
    masks = np.zeros((len(areas_px), 100, 2), np.uint8)
    for s, pair in enumerate(areas_px):
        for phase, n in enumerate(pair):
            masks[s, :n, phase] = 1
    return masks.reshape(len(areas_px), 10, 10, 2)


def test_simpson_by_hand():
    # 50 + 40 pixels of 1.5 × 2 mm² at ED, 20 + 10 at ES, slices 8 mm apart
    study = Study("a", np.zeros((2, 10, 10, 2)), 8.0, (1.5, 2.0), masks_of([(50, 20), (40, 10)]))
    np.testing.assert_allclose(study.volumes_from_masks_ml(), [90 * 3 * 8 / 1000, 30 * 3 * 8 / 1000])


def test_only_the_lv_counts():
    masks = masks_of([(50, 20)])
    masks[masks == 0] = 3
    np.testing.assert_array_equal(units.lv_area_mm2(masks, (1.0, 1.0)), [[50, 20]])


def test_ef_by_hand():
    assert units.ef_percent(120, 48) == pytest.approx(60.0)
    assert np.isnan(units.ef_percent(0, 0))


@pytest.mark.parametrize(("change", "says"), [
    ({"frames": np.zeros((2, 10, 10))}, "frames must be"),
    ({"frames": np.zeros((0, 10, 10, 2))}, "no slice has both"),
    ({"frames": np.full((2, 10, 10, 2), np.nan)}, "400 pixels are NaN"),
    ({"slice_spacing_mm": 0.0}, "slice spacing is 0 mm"),
    ({"pixel_spacing_mm": (1.0, -1.0)}, "column spacing is -1 mm"),
    ({"masks": np.zeros((2, 9, 10, 2), np.uint8)}, "do not match frames"),
    ({"masks": np.full((2, 10, 10, 2), 7, np.uint8)}, r"unknown labels \[7\]"),
    ({"volumes_ml": np.array([50.0, 60.0])}, "ESV 60 ml is larger"),
    ({"volumes_ml": np.array([0.0, 0.0])}, "not positive"),
])
def test_a_study_says_what_is_wrong(change, says):
    good = {"study_id": "7", "frames": np.zeros((2, 10, 10, 2)), "slice_spacing_mm": 8.0}
    with pytest.raises(StudyError, match=says) as error:
        Study(**{**good, **change})
    assert str(error.value).startswith("study 7: ")
    assert "\n" not in str(error.value)
