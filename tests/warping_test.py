"""Warped real images: they show the mask that was asked for, and nothing moves that need not."""

import numpy as np
import pytest

from cardiojax.study import Study
from cardiojax.synthesis.masks import LV, MYOCARDIUM
from cardiojax.synthesis.warping import warped


def disc(radius, size=150, centre=(76, 72), wall=0.0):
    y, x = np.ogrid[:size, :size]
    r = np.hypot(y - centre[0], x - centre[1])
    return np.where(r <= radius, LV, np.where(r <= radius + wall, MYOCARDIUM, 0)).astype(np.uint8)


@pytest.mark.parametrize(("real", "wanted"), [(16, 10), (10, 18), (14, 14)])
def test_a_warped_image_shows_the_wanted_mask(real, wanted):
    """An image that is its own mask becomes the wanted mask; far from the heart nothing moves."""
    heart = np.stack([disc(real, wall=6), disc(real, wall=6)], -1)[None]
    target = np.stack([disc(wanted, centre=(78, 73), wall=5), disc(real, wall=6)], -1)[None]
    background = np.zeros((150, 150, 1), np.uint8)
    background[:5] = 77
    frames = np.select([heart == LV, heart == MYOCARDIUM], [np.uint8(200), np.uint8(100)], background[None])
    ancestor = Study(study_id="a", frames=frames, masks=heart, slice_spacing_mm=8.0)
    made = warped(ancestor, target)
    assert ((made[..., 0] > 150) != (target[..., 0] == LV)).mean() < 0.01
    assert ((made[..., 0] > 50) & (np.arange(150)[:, None] > 5) != (target[..., 0] > 0)).mean() < 0.015
    np.testing.assert_array_equal(made[0, :5], ancestor.frames[0, :5])
    assert np.abs(made[..., 1].astype(int) - ancestor.frames[..., 1]).mean() < 2


def test_a_slice_without_an_lv_stays_as_it_is():
    heart = np.stack([disc(12), np.zeros((150, 150), np.uint8)], -1)[None]
    frames = np.random.default_rng(0).integers(0, 255, heart.shape, np.uint8)
    made = warped(Study(study_id="a", frames=frames, masks=heart, slice_spacing_mm=8.0), np.zeros_like(heart))
    np.testing.assert_array_equal(made[..., 0], frames[..., 1])
