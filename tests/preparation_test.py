import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardiojax import phantom, preparation
from cardiojax.data import records
from cardiojax.errors import StudyError
from cardiojax.study import Study


def disc(shape, spacing, centre_mm, radius_mm):
    rows = (np.arange(shape[0]) - (shape[0] - 1) / 2) * spacing[0] - centre_mm[0]
    cols = (np.arange(shape[1]) - (shape[1] - 1) / 2) * spacing[1] - centre_mm[1]
    return np.hypot(rows[:, None], cols[None, :]) < radius_mm


@settings(max_examples=15, deadline=None)
@given(st.floats(0.6, 2.0), st.floats(0.6, 2.0), st.floats(-15, 15), st.floats(-15, 15))
def test_an_area_survives_resampling(row_mm, col_mm, y, x):
    shape = (int(240 / row_mm), int(240 / col_mm))
    mask = disc(shape, (row_mm, col_mm), (y, x), 30)
    stack = np.repeat(mask[None, :, :, None], 2, axis=-1).astype(np.uint8)
    out, inside = preparation.resample(stack, (row_mm, col_mm), np.zeros(2), order=0)
    assert inside.all()
    assert out[..., 0].sum() == pytest.approx(np.pi * 30**2, rel=0.04)
    rows, cols = np.nonzero(out[0, :, :, 0])
    assert rows.mean() - 74.5 == pytest.approx(y, abs=1.1)
    assert cols.mean() - 74.5 == pytest.approx(x, abs=1.1)


def test_quantiles_and_range():
    rng = np.random.default_rng(0)
    study = Study("a", rng.normal(500, 100, (3, 160, 160, 2)), 8.0)
    frames = preparation.prepare(study, "image").frames
    assert frames.dtype == np.uint8
    assert frames.shape == (3, 150, 150, 2)
    assert (frames == 0).mean() == pytest.approx(0.03, abs=0.005)
    assert (frames == 255).mean() == pytest.approx(0.03, abs=0.005)


def test_a_small_image_is_padded_with_black():
    frames = np.random.default_rng(0).uniform(100, 200, (2, 100, 100, 2))
    out = preparation.prepare(Study("a", frames, 8.0), "image").frames
    assert not out[:, :24].any()
    assert not out[:, :, 126:].any()
    assert out[:, 30:120, 30:120].any()


def test_a_flat_study_is_refused():
    with pytest.raises(StudyError, match="same value"):
        preparation.prepare(Study("a", np.ones((2, 160, 160, 2)), 8.0))


def test_motion_centre_finds_a_heart_off_centre():
    ed, es = (disc((200, 200), (1.2, 1.2), (20, -25), r) for r in (30, 20))
    frames = np.stack([ed, es], axis=-1)[None].repeat(4, axis=0).astype(float)
    np.testing.assert_allclose(preparation.motion_centre_mm(frames, (1.2, 1.2)), [20, -25], atol=9)


def test_motion_centre_keeps_the_phantoms_lv():
    for index in range(4):
        study = phantom.study("dsb_like", index)
        kept = preparation.prepare(study).masks == 1
        assert kept.sum() == pytest.approx((study.masks == 1).sum() * study.pixel_spacing_mm[0] ** 2, rel=0.02)


def test_volumes_pass_through_and_trim_keeps_base_to_apex():
    study = phantom.study("ukb_like", 1)
    trimmed = preparation.trim(study)
    assert (trimmed.masks[[0, -1]] == 1).any(axis=(1, 2, 3)).all()
    np.testing.assert_allclose(trimmed.volumes_from_masks_ml(), study.volumes_ml)
    np.testing.assert_array_equal(preparation.prepare(trimmed).volumes_ml, study.volumes_ml)


def test_a_study_of_the_right_size_and_another_spacing_is_not_prepared():
    """Made by hand: 8 bit, 150 × 150, but pixels of 2 mm. An LV of 10 × 10 pixels has 400 mm², prepared too."""
    masks = np.zeros((6, 150, 150, 2), np.uint8)
    masks[:, 70:80, 70:80] = 1
    study = Study("s", np.random.default_rng(0).integers(0, 255, masks.shape, np.uint8), 8.0, (2.0, 2.0), masks)
    assert not preparation.is_prepared(study)
    with pytest.raises(ValueError, match="is not prepared"):
        records.encode(study)
    prepared = preparation.prepare(study, "image")
    assert preparation.is_prepared(prepared)
    assert (prepared.masks == 1).sum() == 400 * 12
