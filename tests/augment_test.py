import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cardiojax.config import AugmentConfig
from cardiojax.preparation.augment import affine, augment, reverse_slices, study_keys, view

NOTHING = AugmentConfig(rotation_deg=0, shift_mm=0, scale=0, flip=False, reverse=False, intensity=0)


def keys(seed):
    return study_keys(jax.random.key(seed), 2)


def disc_batch(radius=12, size=75):
    r = np.hypot(*np.mgrid[:size, :size] - (size - 1) / 2)
    frames = np.zeros((2, 4, size, size, 2), np.uint8)
    frames[:, :, r < radius] = 200
    return jnp.asarray(frames), jnp.array([3, 4]), jnp.ones((2, 2)) * 100, jnp.ones((2, 4, 2)) * 50


def test_nothing_is_nothing():
    frames, n, volumes, areas = disc_batch()
    out, v, a = augment(keys(0), frames, n, volumes, areas, NOTHING)
    np.testing.assert_allclose(out, frames / 255.0, atol=1e-5)
    np.testing.assert_array_equal(v, volumes)
    np.testing.assert_array_equal(a, areas)


def test_volumes_scale_with_the_image():
    """The disc's area in the image and the volumes change by the same factor s²."""
    frames, n, volumes, areas = disc_batch()
    config = AugmentConfig(rotation_deg=30, shift_mm=4, scale=0.3, flip=True, reverse=True, intensity=0)
    out, v, a = augment(keys(5), frames, n, volumes, areas, config)
    for i in range(2):
        factor = float(out[i, 0, :, :, 0].sum() * 255 / frames[i, 0, :, :, 0].sum())
        assert factor != pytest.approx(1, abs=0.02)
        np.testing.assert_allclose(v[i] / volumes[i], factor, rtol=0.01)
        np.testing.assert_allclose(a[i] / areas[i], factor, rtol=0.01)


def test_a_study_is_changed_alike_whatever_its_companions():
    frames, n, volumes, areas = disc_batch()
    both, _, _ = augment(keys(1), frames, n, volumes, areas, AugmentConfig())
    first, _, _ = augment(keys(1)[:1], frames[:1], n[:1], volumes[:1], areas[:1], AugmentConfig())
    np.testing.assert_array_equal(both[0], first[0])


def test_both_frames_and_all_slices_move_together():
    frames, n, volumes, areas = disc_batch()
    out, _, _ = augment(keys(2), frames, n, volumes, areas, AugmentConfig())
    np.testing.assert_allclose(out[0, 0, :, :, 0], out[0, 2, :, :, 1], atol=1e-6)


def test_a_shift_is_a_shift_and_a_quarter_turn_a_quarter_turn():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 255, (1, 9, 9, 2)), jnp.uint8)
    moved = affine(image, 0.0, 1.0, 1.0, jnp.array([2.0, -1.0]))
    np.testing.assert_allclose(moved[0, :7, 1:], image[0, 2:, :8] / 255.0, atol=1e-5)
    turned = affine(image, jnp.pi / 2, 1.0, 1.0, jnp.zeros(2))
    np.testing.assert_allclose(turned[0], np.rot90(image[0] / 255.0, -1), atol=1e-4)


def test_what_a_move_uncovers_is_0_or_mirrored():
    image = jnp.asarray(np.random.default_rng(0).integers(1, 255, (1, 9, 9, 2)), jnp.uint8)
    place = (0.0, 1.0, 1.0, jnp.array([2.5, -1.0]))
    for reflect, mode in ((False, "constant"), (True, "reflect")):           # numpy's reflect leaves the edge out too
        wide = np.pad(image[0] / 255.0, ((0, 3), (1, 0), (0, 0)), mode=mode)
        expected = (wide[2:11, :9] + wide[3:12, :9]) / 2
        np.testing.assert_allclose(affine(image, *place, reflect=reflect)[0], expected, atol=1e-5)


def test_reversal_leaves_the_padding():
    np.testing.assert_array_equal(reverse_slices(jnp.arange(6), jnp.array(4), True), [3, 2, 1, 0, 4, 5])


def test_the_sixteen_views_differ_and_the_first_is_the_study():
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 255, (1, 3, 6, 6, 2)), jnp.uint8)
    n = jnp.array([3])
    views = [np.asarray(view(frames, n, k)) for k in range(16)]
    np.testing.assert_array_equal(views[0], frames)
    assert len({v.tobytes() for v in views}) == 16
    assert all(np.sort(v, axis=None) == pytest.approx(np.sort(views[0], axis=None)) for v in views)
