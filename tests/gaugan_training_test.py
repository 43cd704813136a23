"""The GauGAN task on the phantom: the laws of training, generation, and the judging of it."""

import copy
import dataclasses
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import cardiojax
from cardiojax import data
from cardiojax.config import AffineConfig, GauganConfig, GauganNetConfig
from cardiojax.data.frames import Frames
from cardiojax.errors import DataError, InputError, Preempted, TrainingDiverged
from cardiojax.models import mask_reader
from cardiojax.models.gaugan import BATCH, padded
from cardiojax.nets import gaugan as nets
from cardiojax.ops import devices
from cardiojax.ops.neighbourhoods import neighbourhoods
from cardiojax.preparation.batch import double, halve_mask
from cardiojax.train import gaugan, loop, losses, rates
from cardiojax.train.parallel import Parallel, StepOptions
from cardiojax.train.run import Run
from cardiojax.train.table_rows import no_rows
from conftest import terminate_at
from tests.sgd_step import forget_programs, softened

CONFIG = GauganConfig(net=GauganNetConfig(size_px=75, upsamplings="few", ngf=2, hidden=4, ndf=2), batch=8, steps=4,
                augment=AffineConfig(10.0, 4.0, 0.1, False), perceptual="none", evaluate_every=2, ema=0.5,
                generator_rate=1e-3, discriminator_rate=1e-3)
ONE = {"training": "phantom/dsb_like:train", "validation": "phantom/dsb_like:validation"}


@pytest.fixture(scope="module")
def frames(phantom_data):
    return [Frames(data.open_split(ONE[k], phantom_data)) for k in ("training", "validation")]


@pytest.fixture(scope="module")
def task(frames):
    return gaugan.GauganTask(CONFIG, *frames)


@pytest.fixture(scope="module")
def start(task):
    return jax.tree.map(np.asarray, task.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def one_device(task):
    return Parallel(task, devices=jax.devices()[:1])


def fit(task, parallel, path, stop_at=None):
    settings = {"task": "gaugan", "preset": "tiny", "config": dataclasses.asdict(CONFIG), "seed": 1, "data": ONE,
                "labels": task.training.labels, "parent": None}
    if stop_at:
        parallel = copy.copy(parallel)
        terminate_at(parallel, stop_at)
    with Run(path, settings) as run:
        return loop.fit(task, run, steps=CONFIG.steps, batch=CONFIG.batch, evaluate_every=CONFIG.evaluate_every,
                        seed=1, parallel=parallel, unit="images")


@pytest.fixture(scope="module")
def finished(task, one_device, tmp_path_factory):
    path = tmp_path_factory.mktemp("gaugan") / "run"
    return path, fit(task, one_device, path)


def test_a_state_has_shapes_before_it_has_numbers(task, start):
    """What `--dry-run` begins with."""
    assert jax.tree.map(np.shape, jax.eval_shape(task.init, jax.random.key(0))) == jax.tree.map(np.shape, start)


def test_generators_held_to_their_masks_by_different_contours_share_their_program(frames):
    """Their weights are arguments of the step."""
    reader = mask_reader.load("contours-small", CONFIG.net)
    other = dataclasses.replace(reader, weights=jax.tree.map(lambda w: 2 * w, reader.weights))
    one, two = (gaugan.GauganTask(CONFIG, *frames, reader=r).step for r in (reader, other))
    assert hash(one) == hash(two)
    assert one == two
    assert one != gaugan.GauganTask(CONFIG, *frames).step


@pytest.mark.gpu
@pytest.mark.slow
def test_interrupted_is_uninterrupted(task, one_device, finished, tmp_path):
    """Both networks, both optimisers, the statistics and the data's place: the same model to the bit. γ and β come from
    the table, as a user's do."""
    whole, metrics = finished
    labels = padded(next(task.batches(0)).masks.astype(np.int32), 80, "constant")
    table = jax.jit(neighbourhoods, static_argnums=1)(labels, 4)
    assert int(table.count) <= len(table.patches)
    with pytest.raises(Preempted, match="step 3 of 4"):
        fit(task, one_device, tmp_path / "run", stop_at=3)
    assert fit(task, one_device, tmp_path / "run") == metrics
    a, b = (np.load(p / "model.npz") for p in (whole, tmp_path / "run"))
    assert a.files == b.files
    for name in a.files:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def moments(state):
    """Both networks' gradients of the last step: with β₁ = 0 Adam's first moment is the gradient."""
    return jax.tree.map(np.asarray, (state.generator_opt[0].mu, state.discriminator_opt[0].mu))


@pytest.fixture
def smooth(monkeypatch):
    """LeakyReLU and L1 without their kinks: there a gradient jumps with the last bit of a value, by up to 0.5 % of a
    small layer's, and which pixels lie there is up to the CPU."""
    monkeypatch.setattr(nets, "leaky", lambda x: 0.2 * x + 0.8 * softened(x))
    monkeypatch.setattr(losses, "l1", lambda a, b: ((a - b) ** 2).mean())
    forget_programs()
    yield
    forget_programs()


@pytest.mark.slow
def test_devices_agree_on_gradients(frames, start, smooth):
    """Eight devices = one; activations computed again = kept; γ and β from a counted table = from the
    CPU's table. G stays: Adam keeps only the signs of its first gradient."""
    still, found = dataclasses.replace(CONFIG, generator_rate=0.0), []
    for count, options in ((1, StepOptions()), (8, StepOptions(remat=True, spade="table"))):
        task = gaugan.GauganTask(still, *frames, options=options)
        parallel = Parallel(task, devices=jax.devices()[:count])
        state, metrics = parallel.step(parallel.place(start), parallel.place_batch(next(task.batches(0))),
                                       jax.random.key(2))
        assert metrics.pop("spade_rows_missing", 0) == 0
        assert 80 in task.rows("table")(CONFIG.batch // count)
        found.append((*moments(state), jax.tree.map(np.asarray, state.generator_stats), metrics))
    one, eight = found
    for ours, theirs in zip(eight[:3], one[:3], strict=True):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max() + 1e-6)
    assert float(eight[3]["loss"]) == pytest.approx(float(one[3]["loss"]), rel=1e-4)


def test_a_table_that_is_too_small_gives_way_to_every_pixel(phantom_data, tmp_path, monkeypatch, caplog):
    """From the last checkpoint on, in the same run."""
    tried = []

    def train(task, run, settings, options, config, unit):
        tried.append(task.step.rows)
        if task.step.rows is not no_rows:
            raise TrainingDiverged("the loss is nan", {"loss": float("nan"), "spade_rows_missing": 3.0})
        return {"l1": 0.5}

    monkeypatch.setattr(loop, "train", train)
    with caplog.at_level(logging.WARNING, "cardiojax"):
        monkeypatch.setattr(logging.getLogger("cardiojax"), "propagate", True)
        assert gaugan.train(CONFIG, preset="tiny", **ONE, data_dir=phantom_data, run=tmp_path / "run",
                            options=StepOptions(spade="table")) == {"l1": 0.5}
    assert len(tried) == 2
    assert callable(tried[0])
    assert tried[0] is not no_rows
    assert tried[1] is no_rows
    assert "every pixel" in caplog.text


@pytest.mark.slow
def test_one_update_by_hand(frames):
    """At step 0 only D learns, at step 1 only G: the other stays to the bit. The average of G follows by hand.

    In bfloat16, with a style encoder and instance norm, in two micro-batches: parameters and their averages are float32
    all the same.
    """
    net = dataclasses.replace(CONFIG.net, dtype="bfloat16", style=True, norm="instance")
    halting = gaugan.GauganTask(dataclasses.replace(CONFIG, net=net), *frames,
                                options=StepOptions(accumulate=2, spade="dense"))
    halting.step = dataclasses.replace(halting.step, **{
        name: optax.adam(lambda count, turn=turn: 1e-3 * (count == turn), b1=0.0, b2=0.9)
        for name, turn in (("discriminator_optimiser", 0), ("generator_optimiser", 1))})
    step, batch, before = jax.jit(halting.step), next(halting.batches(0)), halting.init(jax.random.key(0))
    for moving in ("discriminator", "generator"):
        after, metrics = step(before, batch, jax.random.key(2), halting.constants)
        assert np.isfinite(float(metrics["loss"]))
        assert float(metrics["kl"]) > 0
        for name in ("generator", "discriminator"):
            pairs = zip(jax.tree.leaves(getattr(before, name)), jax.tree.leaves(getattr(after, name)), strict=True)
            changed = [bool((np.asarray(a) != np.asarray(b)).any()) for a, b in pairs]
            assert any(changed) == (name == moving)
        decay = min(CONFIG.ema, (1 + int(before.step)) / (10 + int(before.step)))
        for old, new, ema in zip(*map(jax.tree.leaves, (before.ema, after.generator, after.ema)), strict=True):
            np.testing.assert_allclose(ema, decay * np.asarray(old) + (1 - decay) * np.asarray(new), atol=1e-6)
        before = after
    assert {x.dtype for x in jax.tree.leaves((after.generator, after.discriminator, after.ema))} == {
        jnp.dtype("float32")}


def test_rates_fall_linearly():
    rate = rates.Linear.of(2.0, steps=100, start=50)
    assert [float(rate.at(s)) for s in (0, 49, 50, 75, 100)] == pytest.approx([2, 2, 2, 1, 0])
    assert float(rates.Linear.of(2.0, steps=100, start=100).at(99)) == 2


def test_rates_fall_along_half_a_cosine_after_a_warm_up():
    """As optax's own schedules, and as an optimiser with them; the rate is no part of the program."""
    for rate, schedule in ((rates.Cosine.of(2.0, 100, 20), optax.warmup_cosine_decay_schedule(0.0, 2.0, 20, 100)),
                           (rates.Cosine.of(2.0, 100), optax.cosine_decay_schedule(2.0, 100))):
        for count in (0, 1, 19, 20, 21, 60, 99, 100):
            assert float(rate.at(count)) == pytest.approx(float(schedule(count)), rel=1e-5, abs=1e-6)
    ours, theirs = (optax.flatten(optax.chain(optax.scale_by_adam(), end)) for end in (
        rates.by_rate(), optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.1, 5))))
    start = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    step = jax.jit(lambda rate, opt, params: rates.descended(ours, params, opt, params, rate))
    mine, opt, truth, state = start, ours.init(start), start, theirs.init(start)
    assert jax.tree.structure(opt) == jax.tree.structure(state)
    for _ in range(3):
        mine, opt = step(rates.Cosine.of(0.1, 5), opt, mine)
        truth, state = rates.descended(theirs, truth, state, truth, None)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), (mine, opt), (truth, state))
    programs = step._cache_size()
    step(rates.Cosine.of(0.7, 9), opt, mine)
    assert step._cache_size() == programs


@pytest.mark.slow
def test_a_run_shows_held_out_masks_and_generates(finished, frames, monkeypatch):
    path, metrics = finished
    assert {"ssim", "l1"} <= set(metrics)
    grid = np.asarray(Image.open(path / "samples" / "000004.png"))
    assert grid.shape == (3 * 75, 8 * 75, 3)
    model = cardiojax.load(path)
    study = frames[1].split[0]
    masks = study.masks[..., 0]
    images = model.generate(masks)                       # the records' 150 pixels, of a run of 75
    assert images.shape == masks.shape
    assert np.abs(images).max() <= 1
    small = model.generate(halve_mask(masks))
    np.testing.assert_allclose(images.reshape(len(masks), 75, 2, 75, 2).mean((2, 4)), small, atol=2e-2)
    assert model.generate(masks[:3, :40, :100]).shape == (3, 40, 100)
    assert model.generate(masks[:0]).shape == (0, 150, 150)
    np.testing.assert_allclose(model.generate(halve_mask(masks[2:3]))[0], small[2], atol=1e-5)
    many = np.concatenate([halve_mask(masks)] * 3)                # more than a batch, on two devices by turns
    assert len(many) > BATCH
    alone = model.generate(many)
    monkeypatch.setattr(devices, "accelerators", lambda: jax.devices()[:2])
    spread = cardiojax.load(path)
    np.testing.assert_array_equal(spread.generate(many), alone)
    assert len(spread.replicas) == 2
    with pytest.raises(InputError, match=r"label 7.* never saw"):
        model.generate(np.full((1, 80, 80), 7))
    with pytest.raises(InputError, match="whole numbers"):
        model.generate(np.zeros((1, 80, 80)))


@pytest.mark.slow
def test_a_run_of_before_paints_the_same_and_goes_on(task, one_device, finished, frames, tmp_path):
    """Whose config.json lacks what came later, and has what went."""
    whole, _ = finished
    old = tmp_path / "run"
    shutil.copytree(whole, old)
    settings = json.loads((old / "config.json").read_text())
    settings.pop("accumulate", None)
    del settings["config"]["contours"], settings["config"]["contours_weight"], settings["config"]["net"]["phases"]
    (old / "config.json").write_text(json.dumps(settings))
    assert not fit(task, one_device, old)                # all its steps are done
    settings["config"]["net"]["sparse"] = True
    (old / "config.json").write_text(json.dumps(settings))
    masks = halve_mask(frames[1].split[0].masks[..., 0])
    np.testing.assert_array_equal(*(cardiojax.load(run).generate(masks) for run in (old, whole)))


@pytest.mark.slow
def test_images_of_a_run_look_like_its_training_passes(task, finished):
    """Its statistics are re-estimated: an evaluation pass gives a training batch nearly what a training pass gives."""
    model = cardiojax.load(finished[0])
    batch = task.training.batch(range(0, 64, 2), 75)
    graph = task.step.generator_graph
    net = gaugan.nnx.merge(graph, model.params, model.stats, copy=True)
    maps = jax.jit(net.label_maps)(padded(batch.masks, 80, "constant"))
    passes = jax.jit(lambda maps, train: gaugan.nnx.merge(graph, model.params, model.stats, copy=True)(
        maps, train=train), static_argnums=1)
    difference = float(jnp.abs(passes(maps, True) - passes(maps, False)).mean())
    assert difference < 0.25 * float(passes(maps, False).std())


def test_frames_name_what_is_missing(frames, phantom_data):
    assert frames[0].labels == (0, 1, 2, 3)
    split = data.open_split(ONE["validation"], phantom_data)

    class NoMasks(data.Split):
        def __getitem__(self, i):
            return dataclasses.replace(split[i], masks=None)

    with pytest.raises(DataError, match="nothing:train has no masks"):
        Frames(NoMasks(**{**vars(split), "name": "nothing:train"}))


def test_held_out_labels_that_training_never_shows_are_refused(frames):
    few = copy.copy(frames[0])
    few.labels = (0, 1)
    with pytest.raises(DataError, match=r"validation has label 2, which .*train never shows"):
        gaugan.GauganTask(CONFIG, few, frames[1])


def test_halving_masks_and_doubling_images():
    mask = np.array([[[1, 1, 0, 3], [1, 0, 3, 0], [2, 2, 0, 0], [1, 1, 0, 1]]], np.uint8)
    np.testing.assert_array_equal(halve_mask(mask), [[[1, 0], [2, 0]]])
    images = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(double(images).reshape(2, 5, 2, 7, 2).mean((2, 4)), images, atol=1e-6)


def test_config_refuses():
    with pytest.raises(ValueError, match="perceptual is vgg19"):
        dataclasses.replace(CONFIG, perceptual="resnet")
    with pytest.raises(ValueError, match="perceptual is vgg19"):
        dataclasses.replace(CONFIG, perceptual="sfera")


def test_config_json_is_before_the_first_step(finished):
    config = json.loads((finished[0] / "config.json").read_text())
    assert config["task"] == "gaugan"
    assert config["labels"] == [0, 1, 2, 3]
