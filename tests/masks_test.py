"""Mask pairs of other ejection fractions: what holds for every heart, whatever its shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardiojax import units
from cardiojax.synthesis import masks
from cardiojax.synthesis.masks import Recipe, Shapes, recipes, signed_distance

SIDE = 40


def heart(lv_mm, wall_mm, rv_mm, at, side=SIDE):
    """One slice: an LV disc in its wall, and the RV beside it; a radius of 0 leaves a structure out."""
    y, x = np.mgrid[:side, :side]
    r = np.hypot(y - at[0], x - at[1])
    out = np.zeros((side, side), np.uint8)
    out[np.hypot(y - at[0], x - at[1] - lv_mm - wall_mm - rv_mm) < rv_mm] = 3
    out[r < (lv_mm + wall_mm if wall_mm else 0)] = 2
    out[r < lv_mm] = 1
    return out


sizes = st.tuples(st.sampled_from([0, 2, 4, 6, 9]), st.sampled_from([0, 2, 4]), st.sampled_from([0, 2, 4]))
centres = st.tuples(st.integers(16, 22), st.integers(14, 20))


@st.composite
def stacks(draw, nested=False):
    """Two slices at ED and ES; `nested`: ES within ED, round the same place."""
    slices = []
    for _ in range(2):
        (lv, wall, rv), at = draw(sizes), draw(centres)
        if nested:
            less = draw(st.integers(0, 9))
            es = heart(max(lv - less, 0), wall, rv, at)
        else:
            es = heart(*draw(sizes), draw(centres))
        slices.append(np.stack([heart(lv, wall, rv, at), es], axis=-1))
    return np.stack(slices)


@settings(max_examples=40, deadline=None)
@given(stacks(), st.sampled_from(recipes()))
def test_labels_stay_nested_and_volumes_are_those_of_the_masks(stack, recipe):
    shapes = Shapes(stack)
    pair = shapes.pair(recipe)
    assert pair.shape == stack.shape
    assert pair.dtype == np.uint8
    assert set(np.unique(pair)) <= set(np.unique(stack)) | {0}
    np.testing.assert_allclose(shapes.volumes_ml(recipe), masks.volumes_ml(pair))
    np.testing.assert_allclose(masks.volumes_ml(pair), (pair == 1).sum((0, 1, 2)) * 8.0 / 1000)
    if recipe.kind != "high":                     # the other frame is the patient's own
        kept = 0 if recipe.kind == "low_es" else 1
        np.testing.assert_array_equal(pair[..., kept], stack[..., kept])


@settings(max_examples=30, deadline=None)
@given(stacks(nested=True))
def test_between_nested_masks_the_lv_grows_with_the_step_and_stays_between(stack):
    shapes = Shapes(stack)
    lv = stack == 1
    between = [shapes.pair(Recipe("low_es", k))[..., 1] == 1 for k in range(1, 12)]
    for smaller, larger in zip([lv[..., 1], *between], [*between, lv[..., 0]], strict=True):
        assert not (smaller & ~larger).any()
    edv, esv = units.simpson_ml(units.lv_area_mm2(stack, (1.0, 1.0)), 8.0)
    for recipe in recipes():
        new_edv, new_esv = shapes.volumes_ml(recipe)
        if recipe.kind != "high":
            assert esv <= new_esv <= new_edv <= edv


def test_a_cavity_that_es_lacks_shrinks_to_nothing():
    """A disc of radius 9 at ED, nothing at ES: no jump from step to step larger than its own edge allows."""
    stack = np.stack([heart(9, 3, 0, (20, 20)), np.zeros((SIDE, SIDE), np.uint8)], axis=-1)[None]
    shapes = Shapes(stack)
    radii = [np.sqrt((shapes.pair(Recipe("low_es", k))[0, ..., 1] == 1).sum() / np.pi) for k in range(1, 12)]
    assert radii[0] < 1.5
    assert radii[-1] > 7.5
    assert np.diff([0, *radii, 9]).max() < 1.6
    assert (np.diff(radii) >= 0).all()
    walls = [(shapes.pair(Recipe("low_es", k))[0, ..., 1] > 0).sum() for k in range(1, 12)]
    assert (np.diff(walls) >= 0).all()


def test_scaling_by_hand():
    """At step 13 the ES shrinks to 0.7, the ED grows by 13 parts of 14 of 0.2, about the LV's own centre."""
    stack = np.stack([heart(24, 8, 0, (60, 60), 120), heart(18, 8, 0, (70, 56), 120)], axis=-1)[None]
    pair = Shapes(stack).pair(Recipe("high", 13))
    for frame, factor, at in ((0, 1 + 13 * 0.2 / 14, (60, 60)), (1, 0.7, (70, 56))):
        lv = pair[0, ..., frame] == 1
        assert lv.sum() == pytest.approx((stack[0, ..., frame] == 1).sum() * factor**2, rel=0.04)
        np.testing.assert_allclose(np.argwhere(lv).mean(0), at, atol=0.3)
    mild = Shapes(stack).volumes_ml(Recipe("high", 1))
    assert mild[0] == pytest.approx(masks.volumes_ml(stack)[0], rel=0.04)


def test_the_grid_of_the_paper():
    assert len(recipes()) == 11 + 11 + 13
    assert len(recipes(2)) == 23 + 23 + 26
    # a grid twice as fine holds the coarse one
    stack = np.stack([heart(9, 3, 2, (20, 16)), heart(5, 4, 2, (20, 16))], axis=-1)[None]
    shapes = Shapes(stack)
    np.testing.assert_array_equal(shapes.pair(Recipe("low_ed", 5)), shapes.pair(Recipe("low_ed", 10, 2)))


def test_signed_distance_by_hand():
    np.testing.assert_allclose(signed_distance(np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0],
                                                         [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0],
                                                         [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]], bool))[3],
                               [-1.5, -0.5, 0.5, 1.5, 0.5, -0.5])


@pytest.mark.shared
def test_real_masks_come_back_as_they_are_and_keep_their_labels(shared):
    """No step between two real frames opens a gap inside the wall or lets the LV touch the background anew."""
    from cardiojax.preparation import prepare
    from cardiojax.readers import read_study

    study = prepare(read_study(shared / "acdc" / "training" / "patient001"))
    shapes = Shapes(study.masks)
    ends = [masks._labels(shapes.distances[t]) for t in (0, 1)]
    np.testing.assert_array_equal(np.stack(ends, axis=-1), study.masks[:, *shapes.window])
    for step in range(1, 12):
        es = shapes.pair(Recipe("low_es", step))[..., 1]
        assert set(np.unique(es)) == {0, 1, 2, 3}
        assert _holes(es) <= _holes(study.masks[..., 0]) + _holes(study.masks[..., 1])


def _holes(labels):
    """Background pixels inside of LV ∪ myocardium."""
    from scipy import ndimage
    return sum(int((ndimage.binary_fill_holes((s == 1) | (s == 2)) & (s == 0)).sum()) for s in labels)
