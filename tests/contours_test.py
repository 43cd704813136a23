"""Contours from training to prediction: the laws, stacks without masks, calibration, cines."""

import csv
import dataclasses
import shutil

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import optax
import pytest
from flax import nnx

import cardiojax
from cardiojax import data, phantom
from cardiojax.cli.main import main
from cardiojax.config import CONTOURS_PRESETS, GAUGAN_PRESETS, ContoursNetConfig
from cardiojax.data.labelled import taught_by_volume
from cardiojax.data.split import usable
from cardiojax.errors import DataError, InputError, Preempted
from cardiojax.models import mask_reader
from cardiojax.models.contours import UNCALIBRATED, ContoursModel
from cardiojax.models.looks import (
    as_images,
    crop,
    halved_mean,
    heart_centre,
    limited_to,
    new_networks,
    padded_coarse,
    probabilities,
    turned,
    uncropped,
    with_neighbours,
)
from cardiojax.nets.gaugan import padded_px
from cardiojax.ops.packing import map_real_slices
from cardiojax.phantom.dicom import write_study
from cardiojax.preparation import prepare
from cardiojax.preparation.batch import batch_of
from cardiojax.readers import read_cine, read_study
from cardiojax.study import Cine, Study
from cardiojax.train import contours, loop, parallel
from cardiojax.train.contours import ContoursTask, calibrated
from cardiojax.train.losses import relative_error, segmentation
from cardiojax.train.parallel import Parallel
from cardiojax.train.run import Run
from cardiojax.units import LV
from conftest import terminate_at
from tests.sgd_step import softened

TINY = CONTOURS_PRESETS["tiny"]
CONFIG = dataclasses.replace(TINY, net=dataclasses.replace(TINY.net, neighbours=1, halvings=1), steps=4,
                             evaluate_every=2)


@dataclasses.dataclass
class Without:
    """A source whose studies lack something."""

    source: object
    change: object

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return self.change(dict(self.source[i]), i)


@pytest.fixture(scope="module")
def splits(phantom_data):
    return [data.open_split(f"phantom/dsb_like:{k}", phantom_data) for k in ("train", "validation")]


@pytest.fixture(scope="module")
def mixed(splits):
    """Of every three training studies one without masks and one whose volumes are not its masks'."""
    def change(record, i):
        if i % 3 == 0:
            record["masks"] = np.zeros((0, *record["masks"].shape[1:]), np.uint8)
        elif i % 3 == 1:
            record["volumes_ml"] = record["volumes_ml"] * np.float32(1.2)
        return record

    return usable("mixed", Without(splits[0].source, change))


def fit(task, path, stop_at=None):
    settings = {"task": "contours", "preset": "tiny", "config": dataclasses.asdict(task.config), "seed": 1,
                "data": {}, "labels": task.training.labels, "parent": None}
    on_one = Parallel(task, devices=jax.devices()[:1])
    if stop_at:
        terminate_at(on_one, stop_at)
    with Run(path, settings) as run:
        return loop.fit(task, run, steps=task.config.steps, batch=task.config.batch, evaluate_every=2, seed=1,
                        parallel=on_one)


@pytest.fixture(scope="module")
def finished(mixed, splits, tmp_path_factory):
    path = tmp_path_factory.mktemp("contours") / "run"
    return path, fit(ContoursTask(CONFIG, mixed, splits[1]), path)


@pytest.fixture(scope="module")
def model(finished):
    return cardiojax.load(finished[0])


def test_a_run_measures_and_says_what_it_saw(model, finished, splits):
    assert isinstance(model, ContoursModel)
    assert {"edv_rmse", "dice_LV", "dice_myocardium", "dice_RV"} <= set(finished[1])
    study, p = next(iter(model.predict_many(splits[1], batch=2)))
    assert p.study.masks.shape == study.frames.shape
    assert p.rv_edv_ml is not None
    assert p.edv_ml == pytest.approx(model.predict(study).edv_ml, rel=1e-4)


def test_a_saved_model_is_the_model(model, splits, tmp_path):
    shutil.copy(model.path / "config.json", tmp_path)
    model.save(tmp_path / "model.npz")
    again = cardiojax.load(tmp_path).predict(splits[1][0])
    assert dataclasses.replace(again, model=model.name) == model.predict(splits[1][0])


@pytest.mark.slow
def test_processes_share_an_evaluation(mixed, splits, finished, model, monkeypatch):
    """Two of them, each with its part of the studies, find what one finds."""
    task, parts = ContoursTask(CONFIG, mixed, splits[1]), []

    def seen():
        return task._measured(model.params, model.stats, np.arange(len(splits[1])), 1, lambda batch: batch)

    alone = seen()
    assert (len(alone), alone.shape[1]) == (len(splits[1]), 2 + 2 + 2 + 4 + 4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel.multihost_utils, "process_allgather", lambda part: parts.append(part) or np.stack(
        [parts[0], parts[-1]]))
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        both = seen()
    assert [len(part) for part in parts] == [len(alone) // 2] * 2
    np.testing.assert_allclose(both, alone, rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.slow
def test_interrupted_is_uninterrupted(mixed, splits, finished, tmp_path):
    with pytest.raises(Preempted, match="step 3 of 4"):
        fit(ContoursTask(CONFIG, mixed, splits[1]), tmp_path / "run", stop_at=3)
    assert fit(ContoursTask(CONFIG, mixed, splits[1]), tmp_path / "run") == finished[1]
    a, b = (np.load(p / "model.npz") for p in (finished[0], tmp_path / "run"))
    for name in a.files:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def one_step(task, batch, mode, devices):
    task.step = dataclasses.replace(task.step, optimiser=optax.sgd(1.0))
    where = Parallel(task, mode, jax.devices()[:devices])
    state = where.place(task.init(jax.random.key(0)))
    state, metrics = where.step(state, where.place_batch(batch), jax.random.key(3))
    state = where.gathered(state)
    return jax.device_get((state.params, state.stats, metrics))


@pytest.mark.slow
def test_one_device_is_four(mixed, splits, monkeypatch):
    """Gradients (as SGD steps), statistics and metrics: partial labels and stacks of unequal lengths among them.

    Without the kinks of ReLU and of max pooling, where the last bit of one activation turns a gradient by 0.2 %."""
    monkeypatch.setattr(nnx, "relu", softened)
    monkeypatch.setattr("cardiojax.nets.unet.max_pool_2x2", halved_mean)
    task = ContoursTask(dataclasses.replace(CONFIG, stacks=4), mixed, splits[1])
    batch = next(task.batches(seed=0))
    assert len(set(batch.stacks.n_slices.tolist())) > 1
    known = batch.known.copy()
    known[::2, 2:] = False
    batch = batch._replace(known=known, masks=np.where(known[:, None, None, 2:].all(-1), batch.masks,
                                                       np.where(batch.masks == LV, LV, 0)).astype(np.uint8))
    one, four = (one_step(task, batch, "jit", devices) for devices in (1, 4))
    start = task.init(jax.random.key(0)).params
    for a, b, s in zip(*map(jax.tree.leaves, (one[0], four[0], start)), strict=True):
        np.testing.assert_allclose(a - s, b - s, rtol=2e-4, atol=5e-6)
    for a, b in zip(*map(jax.tree.leaves, (one[1:], four[1:])), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
    assert one[2]["volume_error"] > 0


def test_padding_and_companions_change_nothing(model, splits):
    a, b = splits[1][0], splits[1][1]
    alone = model.apply(batch_of([a], 150, slices=len(a)))
    padded = model.apply(batch_of([a, b], 150, slices=max(len(a), len(b)) + 2))
    n = len(a)
    for x, y in zip((alone.mean_ml, alone.std_ml, alone.seen.centre_px),
                    (padded.mean_ml, padded.std_ml, padded.seen.centre_px), strict=True):
        np.testing.assert_allclose(x[0], y[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(alone.seen.areas_mm2[0, :n], padded.seen.areas_mm2[0, :n], rtol=1e-3, atol=1e-2)
    assert not np.asarray(padded.seen.areas_mm2[0, n:]).any()


def test_stacks_are_studies_whose_volumes_say_something_new(mixed, splits):
    found = taught_by_volume(mixed)
    assert {int(i) % 3 for i in found} == {0, 1}
    assert not len(taught_by_volume(splits[0]))
    task = ContoursTask(CONFIG, splits[0], splits[1])
    assert next(task.batches(seed=0)).stacks is None
    stacks = next(ContoursTask(CONFIG, mixed, splits[1]).batches(seed=0)).stacks
    assert stacks.frames.shape == (1, mixed.n_slices[found].max(), 150, 150)
    assert not stacks.frames[0, stacks.n_slices[0]:].any()


def test_a_volume_teaches_both_phases_apart(mixed, splits):
    """ED and ES of a study come as stacks of their own, each with its own volume."""
    batches = ContoursTask(dataclasses.replace(CONFIG, stacks=16), mixed, splits[1]).batches(seed=0)
    volumes = np.concatenate([next(batches).stacks.volume_ml for _ in range(2)])
    expected = mixed.volumes_ml[taught_by_volume(mixed)].ravel()
    assert set(np.round(volumes, 2)) <= set(np.round(expected, 2))
    assert len(set(np.round(volumes, 2))) == len(expected)
    assert relative_error(jnp.array([90.0, 60]), jnp.array([100.0, 50])) == pytest.approx(20 / 150)


def test_neighbours_are_the_slices_beside():
    stack = jnp.arange(1.0, 4)[None, :, None, None] * jnp.ones((1, 3, 2, 2))
    seen = with_neighbours(stack, 1)
    assert seen.shape == (1, 3, 2, 2, 3)
    np.testing.assert_array_equal(seen[0, :, 0, 0], [[0, 1, 2], [1, 2, 3], [2, 3, 0]])


def test_a_heart_is_found_cut_out_and_put_back():
    """A square far off the centre: found at 2 mm to a pixel of 1 mm, whole in the crop, and back where it was."""
    labels = np.zeros((1, 150, 150), np.uint8)
    labels[0, 20:40, 98:122] = LV
    images = jnp.asarray(labels[..., None] * 1.0)                                  # (t, 150, 150, 1)
    centre = heart_centre(padded_coarse(images)[..., 0])[0]
    np.testing.assert_allclose(centre, [(20 + 39) / 2 - 74.5, (98 + 121) / 2 - 74.5], atol=1)
    cut = crop(images, centre)
    assert float(cut.sum()) == labels.sum()
    back = uncropped(cut[..., 0].astype(jnp.uint8), centre)
    np.testing.assert_array_equal(back, labels)


def test_slices_are_read_with_their_neighbours():
    """As the stacks of a training have them."""
    frames = jax.random.randint(jax.random.key(0), (2, 3, 4, 4, 2), 0, 256).astype(jnp.uint8)
    expected = with_neighbours(frames.transpose(0, 1, 4, 2, 3) / 255.0, 1).reshape(6, 2, 4, 4, 3)
    np.testing.assert_allclose(as_images(frames, 1).reshape(expected.shape) / 255.0, expected, rtol=1e-6)


@pytest.mark.parametrize("part", [1, 4, 5, 100])
def test_real_slices_are_seen_in_parts_and_padding_not_at_all(part):
    values = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (18, 2)))
    for n_slices in ([3, 6, 4], [6, 6, 6], [1, 1, 2]):
        real = np.arange(6) < np.array(n_slices)[:, None]
        own, number = map_real_slices(lambda *slices: slices, (values.reshape(3, 6, 2), jnp.arange(18).reshape(3, 6)),
                                     jnp.asarray(real), part)
        np.testing.assert_array_equal(own, values.reshape(3, 6, 2) * real[..., None])
        np.testing.assert_array_equal(number, np.arange(18).reshape(3, 6) * real)


@pytest.mark.parametrize("which", range(8))
def test_a_view_turned_back_is_the_image(which):
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 1))
    np.testing.assert_array_equal(turned(turned(images, which), which, back=True), images)
    if which:
        assert not np.array_equal(turned(images, which), images)


def test_calibration_finds_a_bias_and_the_size_of_the_errors():
    rng = np.random.default_rng(0)
    truth = np.column_stack([rng.uniform(100, 250, 4000), np.zeros(4000)])
    truth[:, 1] = truth[:, 0] * rng.uniform(0.3, 0.6, 4000)
    said = rng.uniform(1, 4, (4000, 2))                                  # what is unsure, in ml
    shared = rng.standard_normal((4000, 1))
    errors = said * [2.0, 3.0] * (0.6 * shared + 0.8 * rng.standard_normal((4000, 2)))
    found = calibrated((truth + errors) / [0.9, 1.1], said, truth)
    np.testing.assert_allclose(found.scale, [0.9, 1.1], rtol=0.01)
    np.testing.assert_allclose(found.factor, [2, 3, 1], rtol=0.06)
    assert found.residual_corr == pytest.approx(0.36, abs=0.05)
    few = calibrated(truth[:4], said[:4], truth[:4])
    np.testing.assert_array_equal(few.scale, [1, 1])


def cine_of(index=0, phases=8, noise=False):
    """A phantom's cycle that starts at ED and is smallest at its middle."""
    contraction = np.sin(np.pi * np.arange(phases) / phases)
    frames, _, heart = phantom.cine("dsb_like", index, contraction)
    return Cine(f"cine{index}", frames, heart.slice_spacing, (heart.pixel, heart.pixel),
                phase_ms=100.0 * np.arange(phases))


def test_a_cine_brings_its_curve(model):
    cine = cine_of()
    p = model.predict(cine)
    assert p.curve.lv_ml.shape == (8,)
    assert p.study.frame_numbers == (p.ed_frame, p.es_frame)
    assert p.peak_ejection_ml_per_s is not None
    named = model.predict(cine.study(p.ed_frame, p.es_frame))
    assert named == dataclasses.replace(p, peak_ejection_ml_per_s=None, peak_filling_ml_per_s=None)
    shorter = dataclasses.replace(cine, frames=cine.frames[..., :3], phase_ms=None)
    assert model.predict(shorter).peak_filling_ml_per_s is None


def test_the_command_line_writes_everything_beside_the_table(finished, acdc_patient, tmp_path, capsys):
    """A tree with a DICOM cine, an archive of one, an ACDC patient and a file that is no archive: a row, a page and
    masks each, SEG and SR of what was DICOM; what could not be written or read is named and the exit code is 1."""
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    write_study(tree, "dsb_like", 0, "folder", phases=5)
    write_study(tmp_path, "dsb_like", 1, "packed", phases=5)
    shutil.make_archive(str(tree / "packed"), "gztar", tmp_path, "packed")
    acdc_patient(tree / "patient001", shape=(120, 130, 6))
    (tree / "broken.zip").write_text("no archive")
    assert main(["predict", str(tree), "--run", str(finished[0]), "--csv", str(out / "v.csv"), "--masks",
                 str(out / "masks"), "--every-phase", "--report", str(out / "report"), "--dicom", str(out / "dicom"),
                 "--curves", str(out / "curves.csv")]) == 1
    said = capsys.readouterr().err
    assert "study broken: broken.zip is unreadable" in said
    assert "study patient001: DICOM SEG and SR need a study that was read from DICOM" in said
    rows = {row["study_id"]: row for row in csv.DictReader((out / "v.csv").open())}
    assert set(rows) == {"folder", "packed", "patient001"}
    assert {f.name for f in (out / "report").iterdir()} == {"index.html", *(f"{name}.html" for name in rows)}
    index = (out / "report" / "index.html").read_text()
    assert "3 measured" in index
    assert "1 not measured" in index
    dicom = ("folder", "packed")
    assert {f.name for f in (out / "dicom").iterdir()} == {
        *(f"{name}{end}" for name in dicom for end in (".sr.dcm", "_ED.seg.dcm", "_ES.seg.dcm"))}
    assert {f.name for f in (out / "masks").iterdir()} == {
        *(f"{name}_{phase}.nii.gz" for name in rows for phase in ("ED", "ES")),
        *(f"{name}_cine.nii.gz" for name in dicom)}
    assert nib.load(out / "masks" / "packed_cine.nii.gz").shape[3] == 5
    curves = (out / "curves.csv").read_text()
    assert len(curves.splitlines()) == 11
    # as a process that was killed between a study's files and its row leaves them
    kept = [line for line in (out / "v.csv").read_text().splitlines() if not line.startswith("packed")]
    (out / "v.csv").write_text("\n".join(kept) + "\n")
    (out / "report" / "packed.html").unlink()
    assert main(["predict", str(tree), "--run", str(finished[0]), "--csv", str(out / "v.csv"), "--resume", "--report",
                 str(out / "report"), "--curves", str(out / "curves.csv")]) == 1
    assert sorted((out / "curves.csv").read_text().splitlines()) == sorted(curves.splitlines())
    assert {row["study_id"] for row in csv.DictReader((out / "v.csv").open())} == set(rows)
    assert (out / "report" / "packed.html").exists()
    page = (out / "report" / "folder.html").read_text()
    assert "base to apex by" in page
    assert rows["folder"]["sv_std_ml"] in page or f"± {float(rows['folder']['sv_std_ml']):.0f} ml" in page


def test_readers_give_whole_cines(tmp_path):
    """All phases of DICOM, the same two frames of it as `read_study` gives."""
    ed, es, _ = write_study(tmp_path, "ukb_like", 2, "s", phases=6)
    cine, study = read_cine(tmp_path / "s"), read_study(tmp_path / "s", (ed, es))
    assert isinstance(cine, Cine)
    assert cine.frames.shape == (*study.frames.shape[:3], 6)
    np.testing.assert_array_equal(cine.study(ed, es).frames, study.frames)
    assert cine.slice_spacing_mm == study.slice_spacing_mm
    assert (np.diff(cine.phase_ms) > 0).all()
    with pytest.raises(InputError, match="no phase 7"):
        cine.study(7, 1)
    assert prepare(cine).frames.shape[1:] == (150, 150, 6)


def test_it_starts_from_other_contours_and_from_nothing_else(phantom_data, finished, tmp_path):
    task = ContoursTask(CONFIG, *(data.open_split(f"phantom/dsb_like:{k}", phantom_data) for k in ("train", "test")),
                        init=cardiojax.load(finished[0]))
    loaded = np.load(finished[0] / "model.npz")
    state = task.init(jax.random.key(5))
    np.testing.assert_array_equal(state.params["fine"]["head"]["kernel"][...], loaded["params/fine/head/kernel"])
    with pytest.raises(InputError, match="other networks"):
        contours.train(TINY, preset="tiny", training="phantom/dsb_like:train", validation=None,
                       data_dir=phantom_data, run=tmp_path / "run", init=finished[0])


def test_masks_are_needed(splits):
    def change(record, i):
        return {**record, "masks": np.zeros((0, *record["masks"].shape[1:]), np.uint8)}

    with pytest.raises(DataError, match="has no masks"):
        ContoursTask(CONFIG, usable("bare", Without(splits[0].source, change)), splits[1])


def test_a_study_without_a_heart_has_no_ef(model):
    flat = Study("flat", np.zeros((6, 150, 150, 2), np.uint8), 10.0)
    p = model.predict(flat)
    assert p.refer
    assert np.isfinite(p.edv_ml)


@pytest.mark.parametrize("size_px", [75, 150])
def test_a_painted_mask_is_looked_for_where_the_heart_is(model, size_px):
    """The target is the mask, at 1 mm round the heart, with what contours were not taught as background; what is beyond
    the crop has no gradient."""
    net = dataclasses.replace(CONFIG.net, neighbours=0)
    alone = ContoursModel(dataclasses.replace(CONFIG, net=net), (0, LV), *new_networks(net, jax.random.key(0))[1:],
                          UNCALIBRATED, np.zeros(3))
    reader = mask_reader.MaskReader((alone.params, alone.stats), alone.graph, size_px, (True, True, False, False))
    scale, side = 150 // size_px, padded_px(size_px, "few")
    low = (side - size_px) // 2
    labels = np.zeros((1, side, side), np.int32)
    rows, columns = (slice(low + at // scale, low + (at + 20) // scale) for at in (20, 110))
    labels[0, rows, columns] = LV
    labels[0, low, low] = 3
    images = jax.random.uniform(jax.random.key(0), (1, side, side, 1), minval=-1)

    def loss(images):
        logits, shares, known = reader(reader.weights, images, jnp.asarray(labels))
        return segmentation(logits, shares, known, LV, 0.2)[0], (shares, known)

    slope, (shares, known) = jax.jit(jax.grad(loss, has_aux=True))(images)
    assert known.tolist() == [[True, True, False, False]]
    np.testing.assert_allclose(shares.sum(-1), 1)
    assert float(shares[..., LV].sum()) == 400
    at = np.argwhere(np.asarray(shares[0, ..., LV]))
    np.testing.assert_allclose(at.mean(0), 63.5, atol=1)
    assert np.abs(slope[0, rows, columns]).max() > 0
    assert not np.asarray(slope[0, -1 - low - 40 // scale:, :20]).any()


def test_a_reader_sees_one_image(finished):
    with pytest.raises(InputError, match="neighbouring slices"):
        mask_reader.load(str(finished[0]), GAUGAN_PRESETS["tiny"].net)
    assert mask_reader.load("none", GAUGAN_PRESETS["tiny"].net) is None


def test_a_label_that_no_mask_shows_is_never_seen():
    """Else the myocardium is as likely as the background all over the image, and the heart's centre is the image's."""
    net = ContoursNetConfig(coarse_width=2, width=2, halvings=1)
    graph, params, stats = new_networks(net, jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (1, 80, 80, 1))

    def seen(params):
        return probabilities(nnx.merge(graph, params, stats, copy=True)["coarse"], images, 1)

    lv_alone = seen(limited_to((0, 1), params))
    assert float(lv_alone[..., 2:].max()) == 0
    assert float(lv_alone[..., LV].min()) > 0
    np.testing.assert_array_equal(seen(limited_to((0, 1, 2, 3), limited_to((0, 1), params))), seen(params))
