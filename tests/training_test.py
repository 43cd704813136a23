"""The loop's laws on the phantom: interrupted = uninterrupted, eight devices = one, pmap = jit, patients disjoint."""

import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cardiojax
from cardiojax import data
from cardiojax.cli.main import main
from cardiojax.config import SferaConfig, SferaNetConfig
from cardiojax.data import records
from cardiojax.errors import DataError, InputError, Preempted, RunError, TrainingDiverged
from cardiojax.ops.collectives import collectives
from cardiojax.preparation.batch import halve
from cardiojax.train import loop, parallel, rates, resident, sfera
from cardiojax.train.average import averaged
from cardiojax.train.parallel import Parallel, StepOptions, gradients
from cardiojax.train.run import Run
from cardiojax.train.sfera_step import optimiser
from cardiojax.train.state import first_state, updated
from conftest import terminate_at
from tests.sgd_step import without_kinks

CONFIG = SferaConfig(net=SferaNetConfig(size_px=75, width=2, blocks=2, spatial_features=6, lstm_features=5,
                                        dropout=0.1), batch=4, steps=4, evaluate_every=2, views=1, learning_rate=1e-2)
ONE = {"training": "phantom/dsb_like:train", "validation": "phantom/dsb_like:validation"}


def task_of(phantom_data, config=CONFIG):
    splits = [data.open_split(ONE[k], phantom_data) for k in ("training", "validation")]
    return sfera.SferaTask(config, *splits)


def fit(task, path, stop_at=None, config=CONFIG, on_device=False):
    settings = {"task": "sfera", "preset": "tiny", "config": dataclasses.asdict(config), "seed": 1, "data": ONE,
                "parent": None}
    parallel = Parallel(task, devices=jax.devices()[:1])
    if stop_at:
        terminate_at(parallel, stop_at)
    with Run(path, settings) as run:
        return loop.fit(task, run, steps=config.steps, batch=config.batch, evaluate_every=config.evaluate_every,
                        seed=1, parallel=parallel, on_devices=resident.Resident(task, parallel) if on_device else None)


@pytest.fixture(scope="module")
def finished(phantom_data, tmp_path_factory):
    """An uninterrupted run of four steps, and its metrics."""
    path = tmp_path_factory.mktemp("run") / "whole"
    return path, fit(task_of(phantom_data), path)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "killed", "damaged", "on the device"])
def test_interrupted_is_uninterrupted(phantom_data, finished, tmp_path, how):
    """Stopped by SIGTERM in the middle of an epoch and started again: the same model to the bit.

    Killed, or its disk damaged: its newest checkpoint was not finished, or cannot be read, so that it goes on from the
    one before, written while the next step ran. On the device: from there on its studies lie there.
    """
    whole, metrics = finished
    with pytest.raises(Preempted, match="step 3 of 4"):
        fit(task_of(phantom_data), tmp_path / "run", stop_at=3)
    newest = tmp_path / "run" / "checkpoints" / "3"
    if how == "killed":
        shutil.rmtree(newest)
    if how == "damaged":
        for file in (newest / "state").rglob("d/*"):
            file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    again = fit(task_of(phantom_data), tmp_path / "run", on_device=how == "on the device")
    assert again == metrics
    assert (tmp_path / "run" / "damaged_checkpoints" / "3").exists() == (how == "damaged")
    a, b = (np.load(p / "model.npz") for p in (whole, tmp_path / "run"))
    assert a.files == b.files
    for name in a.files:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_run_folder_is_whole(finished):
    path, metrics = finished
    config = json.loads((path / "config.json").read_text())
    assert config["task"] == "sfera"
    assert config["config"]["net"]["width"] == 2
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert lines[-1]["edv_rmse"] == metrics["edv_rmse"]
    machine = {k: v for line in lines if line["kind"] == "machine" for k, v in line.items()}
    assert machine["evaluation_s"] > 0
    assert [line["step"] for line in lines if "step_s" in line] == [
        line["step"] for line in lines if line["kind"] == "validation"]            # also where evaluations are frequent
    assert machine["per_s"] * machine["step_s"] == pytest.approx(CONFIG.batch, rel=0.01)
    assert 0 <= machine["input_wait_share"] <= 1
    assert list((path / "tensorboard").iterdir())
    model = cardiojax.load(path)
    np.testing.assert_array_equal(model.mean_predictor, np.load(path / "model.npz")["mean_predictor"])


def test_a_run_of_other_settings_is_not_gone_on_with(phantom_data, finished):
    other = dataclasses.replace(CONFIG, learning_rate=0.5)
    with pytest.raises(RunError, match=r"learning_rate 0.01, not 0.5"):
        fit(task_of(phantom_data, other), finished[0], config=other)


def test_a_run_keeps_its_number_of_steps(phantom_data, finished):
    """More steps would throw a learning rate that has fallen to 0 back up."""
    longer = dataclasses.replace(CONFIG, steps=8)
    with pytest.raises(RunError, match=r"a run of 4 steps, not 8: finish it with --steps 4, or .* --init ") as error:
        fit(task_of(phantom_data, longer), finished[0], config=longer)
    assert "\n" not in str(error.value)
    assert json.loads((finished[0] / "config.json").read_text())["config"]["steps"] == 4


def test_nan_stops_the_run_and_names_the_step(phantom_data, tmp_path):
    wild = dataclasses.replace(CONFIG, learning_rate=1e30)         # the program of the others
    with pytest.raises(TrainingDiverged, match="at step 2"):
        fit(task_of(phantom_data, wild), tmp_path / "run", config=wild)


def one_step(task, batch, mode, devices):
    """Parameters, statistics and metrics after a step of SGD, so that the step shows the gradients themselves."""
    import optax
    task.step = dataclasses.replace(task.step, optimiser=optax.sgd(1.0))
    parallel = Parallel(task, mode, jax.devices()[:devices])
    state = parallel.place(task.init(jax.random.key(0)))
    state, metrics = parallel.step(state, parallel.place_batch(batch), jax.random.key(3))
    return jax.device_get((parallel.gathered(state).params, parallel.gathered(state).stats, metrics))


def close(task, one, other):
    start = task.init(jax.random.key(0)).params
    for a, b, s in zip(*map(jax.tree.leaves, (one[0], other[0], start)), strict=True):
        np.testing.assert_allclose(a - s, b - s, rtol=2e-4, atol=2e-6)
    for a, b in zip(*map(jax.tree.leaves, (one[1:], other[1:])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.fixture
def smooth():
    with without_kinks():
        yield


@pytest.mark.slow
def test_one_device_is_eight_jit_is_pmap_and_packed_is_padded(phantom_data, smooth):
    """Gradients (as SGD steps), statistics and metrics, with unequal numbers of real slices a device; each packs its
    own, and no image leaves its device."""
    task = task_of(phantom_data, dataclasses.replace(CONFIG, batch=8, net=dataclasses.replace(CONFIG.net, dropout=0.3)))
    batch = next(task.batches(seed=0))
    assert len(set(batch.n_slices.tolist())) > 1
    padded = one_step(task, dataclasses.replace(batch, slice_budget=None), "jit", 1)
    for mode, devices in (("jit", 8), ("jit", 2), ("pmap", 2)):
        batch = next(task.batches(seed=0, devices=devices))
        assert devices == 8 or batch.slice_budget < batch.frames.shape[1] * 8 // devices
        close(task, padded, one_step(task, batch, mode, devices))
    two = Parallel(task, devices=jax.devices()[:2])
    sent = collectives(two.compiled(task.init(jax.random.key(0)), batch).as_text())
    assert set(sent) == {"all-reduce"}


@pytest.mark.parametrize(("mode", "devices", "processes"),
                         [("jit", 1, 1), ("jit", 4, 1), ("pmap", 2, 1), ("jit", 4, 2)])
def test_studies_on_the_devices_make_the_batches_that_are_sent(phantom_data, mode, devices, processes):
    """In the same order, epoch after epoch, split as the step takes them. With two processes: put together from what
    lies on the devices."""
    task = task_of(phantom_data, dataclasses.replace(CONFIG, batch=8))
    parallel = Parallel(task, mode, jax.devices()[:devices])
    sent, named = task.batches(seed=0, devices=devices), resident.Resident(task, parallel)
    batches = named.batches(seed=0, devices=devices)
    for _ in range(3):
        expected = parallel.place_batch(next(sent))
        parallel.single_process = processes == 1
        found = named.place_batch(next(batches))
        parallel.single_process = True
        assert found.slice_budget == expected.slice_budget
        for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
            np.testing.assert_array_equal(a, b)
    again = named.batches(seed=0, devices=devices)
    again.set_state(sent.get_state())
    np.testing.assert_array_equal(next(again).indices, next(batches).indices)


def test_studies_that_do_not_fit_on_a_device_are_refused(phantom_data):
    task = task_of(phantom_data)
    assert task.gib == pytest.approx(task.all_studies().frames.nbytes / 2**30)
    limit = {"bytes_limit": 2 * task.gib * 2**30}
    gpu = types.SimpleNamespace(memory_stats=lambda: limit, device_kind="H200")
    resident.check(task, gpu)
    limit["bytes_limit"] -= 1
    with pytest.raises(InputError, match=r"--resident: the training studies take 0\.0 GiB, .* 0\.0 GiB of H200"):
        resident.check(task, gpu)


def test_what_is_sent_little_is_not_kept_on_devices(phantom_data, tmp_path, capfd):
    words = ["train", "contours", "--preset", "tiny", "--data", ONE["training"], "--data-dir", str(phantom_data),
             "--run", str(tmp_path / "run"), "--resident"]
    assert main(words) == 2
    assert "--resident is for SFERA" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_micro_batches_add_up():
    """Three parts of four numbers on each of two devices, by hand: the mean gradient, the state of the last."""
    x = jnp.arange(24.0)

    def of(slope, seen, micro):
        return (slope * micro).sum(), (seen + micro.sum(), {"largest": micro.max()})

    gradient, seen, metrics = gradients(of, jnp.array(2.0), jnp.array(0.0), x, parts=3)
    assert float(gradient) == 276 / 3
    assert float(seen) == 276
    assert float(metrics["largest"]) == (21 + 22 + 23) / 3          # parts are 0, 3, 6 …; 1, 4 …; 2, 5 …
    whole, seen, _ = gradients(of, jnp.array(2.0), jnp.array(0.0), x)
    assert (float(whole), float(seen)) == (276, 276)


@pytest.mark.slow
def test_accumulated_on_four_devices_is_on_one_and_remat_changes_nothing(phantom_data, smooth):
    """Both at once: activations computed again, on four devices."""
    splits = [data.open_split(ONE[k], phantom_data) for k in ("training", "validation")]

    def stepped(options, devices):
        task = sfera.SferaTask(dataclasses.replace(CONFIG, batch=8), *splits, options=options)
        return task, one_step(task, next(task.batches(seed=0)), "jit", devices)

    task, one = stepped(StepOptions(accumulate=2), 1)
    close(task, one, stepped(StepOptions(accumulate=2, remat=True), 4)[1])


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_a_dry_run_says_what_a_step_costs(phantom_data, tmp_path, caplog, mode):
    with caplog.at_level("INFO", "cardiojax"):
        sfera.train(dataclasses.replace(CONFIG, batch=8), preset="tiny", training=ONE["training"], validation=None,
                    data_dir=phantom_data, run=tmp_path / "run", options=StepOptions(mode, dry_run=True))
    assert "a step: 8 studies on 8 × cpu" in caplog.text
    count = sum(x.size for x in jax.tree.leaves(task_of(phantom_data).init(jax.random.key(0)).params))
    assert f"params {count:,}" in caplog.text
    assert "GFLOP" in caplog.text
    assert not (tmp_path / "run").exists()


def test_an_indivisible_batch_is_refused(phantom_data, tmp_path):
    with pytest.raises(InputError, match=r"batch of 6 studies does not divide over 8 devices; 8 would"):
        sfera.train(dataclasses.replace(CONFIG, batch=6), preset="tiny", training=ONE["training"],
                    validation=None, data_dir=phantom_data, run=tmp_path / "run")


def test_a_patient_is_in_one_split_only(phantom_data, tmp_path):
    splits = [data.open_split(f"phantom/dsb_like:{s}", phantom_data) for s in ("train", "validation", "test")]
    for i, a in enumerate(splits):
        for b in splits[i + 1:]:
            assert not a.ancestors & b.ancestors
    with pytest.raises(DataError, match="patients are in both"):
        sfera.train(CONFIG, preset="tiny", training=ONE["training"], validation="phantom/dsb_like:train[:3]",
                    data_dir=phantom_data, run=tmp_path / "run")


def test_re_estimated_statistics_are_those_of_the_training_studies(phantom_data):
    """The first BatchNorm of the first block, by hand: mean and mean square of its convolution over all slices."""
    task = task_of(phantom_data, dataclasses.replace(CONFIG, batch=12))
    state = task.init(jax.random.key(0))
    stats = task.re_estimated(state.params, lambda batch: batch)
    from cardiojax.ops.convolution import conv
    images = np.concatenate([halve(task.training[i].frames) for i in range(12)]) / np.float32(255)
    y = np.asarray(conv(jnp.asarray(images) - 0.5, state.params["blocks"][0]["conv_0"]["kernel"][...]))
    found = stats["blocks"][0]["norm_0"]
    np.testing.assert_allclose(found["mean"][...], y.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["square"][...], (y**2).mean((0, 1, 2)), rtol=1e-3)


def test_statistics_are_of_studies_from_all_over_a_sorted_split(phantom_data, monkeypatch):
    """Twelve dark studies and then twelve bright ones, of which twelve are read: some of both, the same ones again."""
    task = task_of(phantom_data)
    dark = [task.training[i] for i in range(12)]
    studies = dark + [s.replace(frames=255 - s.frames // 4) for s in dark]
    params = task.init(jax.random.key(0)).params

    def first_mean(studies, count):
        monkeypatch.setattr(sfera, "SAMPLED_STUDIES", count)
        task.training = data.usable("sorted", [records.encode(s) for s in studies])
        return task.re_estimated(params, lambda batch: batch)["blocks"][0]["norm_0"]["mean"][...]

    dark_mean, bright_mean = first_mean(studies[:12], 12), first_mean(studies[12:], 12)
    share = (first_mean(studies, 12) - dark_mean) / (bright_mean - dark_mean)
    assert ((share > 0.2) & (share < 0.8)).all(), share
    np.testing.assert_array_equal(first_mean(studies, 12), first_mean(studies, 12))
    np.testing.assert_allclose(first_mean(studies, 512), (dark_mean + bright_mean) / 2, rtol=1e-4)


def test_the_average_of_the_weights_by_hand(phantom_data):
    """Decay min(ema, (1 + step) / (10 + step)): 0.1, 2/11, … 0.9. With ema 0 there is no average."""
    old, new = {"w": jnp.array([1.0, 5.0])}, {"w": jnp.array([2.0, -3.0])}
    for step, expected in ((0, [1.9, -2.2]), (1, [20 / 11, -17 / 11]), (10_000, [1.1, 4.2])):
        np.testing.assert_allclose(averaged(old, new, 0.9, jnp.array(step))["w"], expected, rtol=1e-6)
        np.testing.assert_array_equal(averaged(old, new, 0.0, jnp.array(step))["w"], new["w"])
    nothing, descent = nnx.State({}), optimiser(1.0, 0.0)
    state = first_state(nnx.State(old), nothing, descent)
    for decay in (0.0, 0.5):
        after, _ = updated(state, nnx.State(new), nothing, descent, rates.Cosine.of(0.1, 10), decay, None)
        assert not np.array_equal(after.params["w"], old["w"])
        kept = min(decay, 0.1)
        np.testing.assert_allclose(after.ema["w"], kept * old["w"] + (1 - kept) * after.params["w"], rtol=1e-6)
    task = task_of(phantom_data, dataclasses.replace(CONFIG, ema=0.0))
    state, _ = jax.jit(task.step)(task.init(jax.random.key(0)), next(task.batches(seed=0)), jax.random.key(0),
                                  task.constants)
    for param, average in zip(*map(jax.tree.leaves, (state.params, state.ema)), strict=True):
        np.testing.assert_array_equal(average, param)


def test_trainings_of_equal_settings_share_their_program(phantom_data):
    """Whatever their data, rates and numbers of steps: an experiment traces and compiles one."""
    def program(**changes):
        return Parallel(task_of(phantom_data, dataclasses.replace(CONFIG, **changes)))._step

    assert program(steps=90, learning_rate=1.0, views=2) is program()
    assert program(area_weight=0.5) is not program()
    assert program(weight_decay=0.5) is not program()


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_gradients_are_clipped_unless_the_norm_is_0(phantom_data, clip_norm):
    task = task_of(phantom_data, dataclasses.replace(CONFIG, clip_norm=clip_norm, weight_decay=0.0))
    params = task.init(jax.random.key(0)).params
    gradients = jax.tree.map(jnp.ones_like, params)
    optimiser = task.step.optimiser
    _, opt = optimiser.update(gradients, optimiser.init(params), params, rate=task.constants[1])
    moments = [x for x in jax.tree.leaves(opt) if x.ndim]
    norm = clip_norm or sum(x.size for x in jax.tree.leaves(params))**0.5
    assert float(jnp.linalg.norm(moments[0])) == pytest.approx(0.1 * norm, rel=1e-4)         # 1 − β₁ of the gradient


def test_predicting_a_record_is_evaluating_it(phantom_data, finished):
    """One path: alone, in a batch and from the study as it was read."""
    from cardiojax import phantom
    model = cardiojax.load(finished[0])
    split = data.open_split("phantom/dsb_like:test", phantom_data)
    for i, (study, p) in enumerate(model.predict_many(split, batch=3)):
        alone, read = model.predict(study), model.predict(phantom.study("dsb_like", 16 + i))
        for field in ("edv_ml", "esv_ml", "ef_percent", "edv_std_ml", "ef_std_percent"):
            assert getattr(alone, field) == pytest.approx(getattr(p, field), rel=1e-4)
            assert getattr(read, field) == pytest.approx(getattr(p, field), rel=1e-4)


def test_finetuning_keeps_the_parents_scaling(phantom_data, finished, tmp_path):
    training = "phantom/dsb_like:validation,phantom/dsb_like:test"
    sfera.train(dataclasses.replace(CONFIG, batch=8, steps=1), preset="tiny", training=training,
                validation=ONE["training"], data_dir=phantom_data, run=tmp_path / "child", init=finished[0])
    parent, child = (np.load(p / "model.npz") for p in (finished[0], tmp_path / "child"))
    np.testing.assert_array_equal(parent["scaling/high"], child["scaling/high"])


def test_evaluations_before_the_last_look_at_a_sample(phantom_data, monkeypatch):
    """Of 12 and 4 studies: 3 and 3 in one view; at the last all, in every view."""
    task = task_of(phantom_data, dataclasses.replace(CONFIG, views=2))
    monkeypatch.setattr(sfera, "SAMPLED_STUDIES", 3)
    monkeypatch.setattr(task, "re_estimated", lambda params, shard: None)
    seen = []

    def features(params, stats, split, indices, views, shard):
        seen.append((split is task.training, len(indices), views))
        rng = np.random.default_rng(0)
        return rng.standard_normal((len(indices), 4)).astype(np.float32), split.volumes_ml[indices], \
            split.slice_spacing_mm[indices]

    monkeypatch.setattr(task, "_features", features)
    state = task.init(jax.random.key(0))
    for everything in (False, True):
        task.evaluate(state, lambda batch: batch, everything=everything)
    assert seen == [(True, 3, 1), (False, 3, 1), (True, 12, 2), (False, 4, 2)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_processes_share_the_studies_of_an_evaluation(count, monkeypatch):
    """Three of them, each with its part, have the rows of all in order."""
    rows, parts = np.arange(2.0 * count).reshape(count, 2), []
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(parallel.multihost_utils, "process_allgather", lambda part: parts.append(part) or np.stack(
        parts if len(parts) == 3 else [part] * 3))
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found = parallel.of_all(rows[parallel.share_of(np.arange(count))], count)
    np.testing.assert_array_equal(found, rows)


DRY = ["train", "sfera", "--preset", "tiny", "--batch", "8", "--data", "phantom/dsb_like:train", "--dry-run"]


def test_chips_that_are_not_here_need_a_dry_run_and_a_compiler(phantom_data, tmp_path, capsys):
    where = ["--data-dir", str(phantom_data), "--run", str(tmp_path), "--topology", "v0:2x4"]
    assert main([*DRY, *where]) == 2
    assert "--topology v0:2x4 (its compiler comes with cardiojax[tpu]): " in capsys.readouterr().err.splitlines()[-1]
    assert main([*DRY[:-1], *where]) == 2
    assert "with --dry-run" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "batch", "unit"), [("sfera", "8", "studies"), ("gaugan", "16", "images")])
def test_a_step_compiles_for_chips_that_are_not_here(task, batch, unit, phantom_data, tmp_path, capsys):
    """The GauGAN's with two images a chip, which ended the compiler until one of its passes was switched off."""
    pytest.importorskip("libtpu")
    words = [{"sfera": task, "8": batch}.get(word, word) for word in DRY]
    assert main([*words, "--data-dir", str(phantom_data), "--run", str(tmp_path), "--topology", "v5e:2x4"]) == 0
    said = capsys.readouterr().err
    assert f"{batch} {unit} on 8 × TPU v5 lite" in said
    assert "GB read and written" in said
    assert "all-reduce: " in said
