"""A GauGAN of two phases: ED and ES of a slice painted together."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cardiojax import data
from cardiojax.config import AffineConfig, GauganConfig, GauganNetConfig
from cardiojax.data.frames import Frames
from cardiojax.errors import InputError, RunError
from cardiojax.evaluate.judge import synthetic
from cardiojax.evaluate.samples import generated
from cardiojax.models import mask_reader
from cardiojax.models.gaugan import GauganModel, new_networks, to_uint8
from cardiojax.models.phases import images_apart, joined, labels_apart
from cardiojax.models.saved import write_config
from cardiojax.preparation.augment import augment_frames, study_keys
from cardiojax.preparation.batch import single_frames
from cardiojax.train import gaugan
from cardiojax.train.run import Run

NET = GauganNetConfig(size_px=75, upsamplings="few", ngf=2, hidden=4, ndf=2, phases=2)
CONFIG = GauganConfig(net=NET, augment=AffineConfig(10.0, 4.0, 0.1, False), batch=8, perceptual="none")


@pytest.fixture(scope="module")
def split(phantom_data):
    return data.open_split("phantom/dsb_like:validation", phantom_data)


def test_pairs_are_the_single_frames(split):
    for size_px in (75, 150):
        pairs, singles = Frames(split, 2).batch([0, 3], size_px), Frames(split).batch([0, 1, 6, 7], size_px)
        assert pairs.images.shape == (2, size_px, size_px, 2)
        jax.tree.map(np.testing.assert_array_equal, [single_frames(a) for a in pairs], list(singles))
    assert 2 * len(Frames(split, 2)) == len(Frames(split))
    assert Frames(split, 2).examples(3, 75).masks.shape == (3, 75, 75, 2)


def test_both_frames_of_a_pair_move_alike(split):
    pairs, keys = jax.device_put(Frames(split, 2).batch([0, 3], 75)), study_keys(jax.random.key(0), 2)
    images, labels = augment_frames(keys, *pairs, CONFIG.augment)
    for t in range(2):
        image, label = augment_frames(keys, pairs.images[..., t], pairs.masks[..., t], CONFIG.augment)
        np.testing.assert_allclose(images[..., t], image, atol=1e-6)
        np.testing.assert_array_equal(labels[..., t], label)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pair_is_joined_and_taken_apart(channels):
    net, rng = dataclasses.replace(NET, channels=channels), np.random.default_rng(0)
    masks = rng.integers(0, 4, (3, 5, 6, 2)).astype(np.uint8)
    labels = joined(masks, net)
    assert labels.max() < net.joined_classes == 16
    np.testing.assert_array_equal(labels_apart(jnp.asarray(labels), net), single_frames(masks))
    images = rng.normal(size=(3, 5, 6, 2)).astype(np.float32)
    found = images_apart(jnp.repeat(images, channels, -1), net)           # as a training repeats gray images
    np.testing.assert_array_equal(found, np.repeat(single_frames(images)[..., None], channels, -1))


def test_a_generator_of_pairs_learns_from_both_frames(split):
    """Held to both masks by contours; a step is traced, which takes every array by its shape."""
    frames = Frames(split, 2)
    task = gaugan.GauganTask(CONFIG, frames, frames, reader=mask_reader.load("contours-small", NET))
    state = jax.eval_shape(task.init, jax.random.key(0))
    found, metrics = jax.eval_shape(task.step, state, next(task.batches(0)), jax.random.key(1), task.constants)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, state)
    assert {"g_mask", "g_features", "d_hinge"} <= metrics.keys()


def test_a_generator_of_pairs_paints_studies(split):
    """Each frame in the sight of the other's mask."""
    params, stats, *_ = new_networks(NET, jax.random.key(0))
    model, study = GauganModel(NET, (0, 1, 2, 3), params, stats), split[0]
    images = model.generate(study.masks)
    assert images.shape == study.masks.shape
    np.testing.assert_array_equal(synthetic([study], model)[0].frames, to_uint8(images))
    other = study.masks.copy()
    other[..., 1] = 0
    assert not np.array_equal(model.generate(other)[..., 0], images[..., 0])
    fakes, reals = generated(model, Frames(split, 2).batch([0, 3], 150))
    np.testing.assert_allclose(fakes[:2], single_frames(images[:1]), atol=1e-5)
    assert reals.shape == fakes.shape == (4, 150, 150)
    with pytest.raises(InputError, match=r"\(N, H, W, 2\)"):
        model.generate(study.masks[..., 0])


def test_a_style_is_of_single_frames():
    with pytest.raises(ValueError, match="paints pairs"):
        dataclasses.replace(NET, style=True)


def test_a_run_from_before_there_were_pairs_goes_on(tmp_path):
    settings = {"task": "gaugan", "preset": "tiny", "seed": 0, "config": dataclasses.asdict(CONFIG)}
    single = settings["config"] | {"net": settings["config"]["net"] | {"phases": 1}}
    before = json.loads(json.dumps(settings | {"config": single}))
    del before["config"]["net"]["phases"]
    write_config(tmp_path, before)
    with Run(tmp_path, settings | {"config": single}):
        pass
    with pytest.raises(RunError, match="with net"), Run(tmp_path, settings):
        pass
