import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from cardiojax import data, phantom
from cardiojax.cli.main import main
from cardiojax.data import kept as kept_in_memory
from cardiojax.data import records
from cardiojax.data.frames import Frames
from cardiojax.data.labelled import labelled_batches
from cardiojax.errors import DataError
from cardiojax.preparation.batch import halve, slice_budget, study_arrays
from data_builders.phantom import phantom_dataset_builder


@pytest.fixture(scope="module")
def split(phantom_data):
    return data.open_split("phantom/dsb_like:train", phantom_data)


def batches(split, seed=0, batch=4, **kwargs):
    return data.training_batches(split, size_px=75, batch=batch, slices=data.max_slices(split), seed=seed, **kwargs)


def identity(batch):
    """What tells studies apart in a batch."""
    return [float(v) for v in batch.volumes_ml[:, 0]]


def test_a_record_is_the_study(split):
    made = phantom.prepared_study("dsb_like", 0)
    read = split[0]
    np.testing.assert_array_equal(read.frames, made.frames)
    np.testing.assert_array_equal(read.masks, made.masks)
    np.testing.assert_allclose(read.volumes_ml, made.volumes_ml, rtol=1e-6)
    assert (read.study_id, read.source, read.ancestor) == ("dsb_like_00000", "phantom", "")


def test_a_study_without_masks_or_volumes_stays_without():
    made = phantom.prepared_study("dsb_like", 0).replace(masks=None, volumes_ml=None)
    read = records.decode(records.features().deserialize_example_np(
        records.features().serialize_example(records.encode(made))))
    assert read.masks is None
    assert read.volumes_ml is None


def test_parts_of_splits_as_splits(split):
    """In the order asked for, without masks, and joined: what is known of a study stays with it."""
    few = split.subset(np.array([5, 2]), "two").without_masks()
    assert [s.study_id for s in few] == [split[5].study_id, split[2].study_id]
    assert (few[0].masks, len(few.ancestors), few.name) == (None, 2, "two")
    both = data.joined(few, split)
    assert (both.name, len(both)) == (f"two,{split.name}", len(split) + 2)
    for i, study in enumerate(both):
        same = split[[5, 2][i] if i < 2 else i - 2]
        assert study.study_id == same.study_id
        assert (study.masks is None) == (i < 2)
        np.testing.assert_array_equal(study.frames, same.frames)
        np.testing.assert_array_equal(both.volumes_ml[i], same.volumes_ml)
        assert (both.n_slices[i], both.slice_spacing_mm[i]) == (len(same), np.float32(same.slice_spacing_mm))
    assert both.ancestors == split.ancestors


def test_an_unprepared_study_is_no_record():
    with pytest.raises(ValueError, match="not prepared"):
        records.encode(phantom.study("dsb_like", 0))


def test_validation_is_of_every_dataset_of_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_dataset_builder, "SPLITS", {"train": (0, 3), "validation": (3, 2)})
    assert main(["build", "phantom", "--data-dir", str(tmp_path)]) == 0
    assert data.default_validation("a:train[:50%], b/c:train,a:test") == "a:validation,b/c:validation"
    _, one = data.open_pair("phantom/dsb_like:train", None, tmp_path)
    assert one.name == "phantom/dsb_like:validation"
    _, both = data.open_pair("phantom/dsb_like:train[:2],phantom/ukb_like:train", None, tmp_path)
    assert both.name == "phantom/dsb_like:validation,phantom/ukb_like:validation"
    assert sorted({both[i].study_id.rpartition("_")[0] for i in range(len(both))}) == ["dsb_like", "ukb_like"]
    assert len(both) == 4


def test_every_epoch_sees_every_study_in_another_order(split):
    it = batches(split)
    epochs = [[v for _ in range(3) for v in identity(next(it))] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(float(v) for v in split.volumes_ml[:, 0])
    assert epochs[0] != epochs[1]
    again = batches(split)
    assert [v for _ in range(3) for v in identity(next(again))] == epochs[0]


def test_resumed_in_the_middle_of_an_epoch(split):
    it = batches(split)
    for _ in range(4):
        next(it)
    state, expected = it.get_state(), [identity(next(it)) for _ in range(4)]
    fresh = batches(split)
    fresh.set_state(state)
    assert [identity(next(fresh)) for _ in range(4)] == expected


def test_processes_share_each_batch_without_overlap(split):
    whole = [identity(next(it)) for it in [batches(split)] for _ in range(5)]
    parts = [batches(split, process=p, processes=2) for p in range(2)]
    for expected in whole:
        shares = [identity(next(it)) for it in parts]
        assert [len(s) for s in shares] == [2, 2]
        assert sorted(shares[0] + shares[1]) == sorted(expected)


def test_padding_budget_and_areas(split):
    batch = next(batches(split))
    assert batch.frames.shape[1] % 4 == 0
    assert batch.slice_budget % 4 == 0
    assert batch.n_slices.sum() <= batch.slice_budget < batch.n_slices.sum() + 4
    for i, n in enumerate(batch.n_slices):
        assert not batch.frames[i, n:].any()
        assert np.isnan(batch.area_mm2[i, n:]).all()
        # the cropped masks at 1 mm still give the volumes
        volumes = np.nansum(batch.area_mm2[i], axis=0) * batch.slice_spacing_mm[i] / 1000
        np.testing.assert_allclose(volumes, batch.volumes_ml[i], rtol=0.03)


def test_little_padding_is_convolved(split):
    """Within 5 % of the real slices on the average, for stacks as the challenge's; by hand for two devices."""
    counts = np.random.default_rng(0).choice([8, 9, 10, 11, 12], (200, 8), p=[0.05, 0.15, 0.3, 0.4, 0.1])
    convolved = sum(slice_budget(n, 1, 16) for n in counts)
    assert convolved <= 1.05 * counts.sum()
    assert slice_budget(np.array([3, 4, 7, 6]), 2, 12) == 16
    assert slice_budget(np.array([3, 4, 12, 12]), 2, 12) == 24
    shares = [next(batches(split, process=p, processes=2, devices=2)) for p in range(2)]
    assert shares[0].slice_budget == shares[1].slice_budget                   # one program on both
    assert shares[0].slice_budget >= max(s.n_slices.sum() for s in shares)


def test_evaluation_drops_nobody(split):
    seen = [v for b in data.evaluation_batches(split, size_px=75, batch=5, slices=16)
            for v, real in zip(identity(b), b.real, strict=True) if real]
    assert seen == [float(v) for v in split.volumes_ml[:, 0]]


def test_halving_by_hand():
    frames = np.array([[1, 2, 10, 10], [3, 5, 10, 11]], np.uint8).reshape(1, 2, 4, 1).repeat(2, axis=-1)
    np.testing.assert_array_equal(halve(frames)[0, 0, :, 0], [3, 10])


@pytest.mark.parametrize(("spec", "says"), [
    ("phantom", "is not NAME:SPLIT"), ("nothing:train", "no dataset 'nothing'"),
    ("phantom/ukb_like:train", "is not built"), ("phantom/dsb_like:dev", "has no split 'dev'")])
def test_what_is_not_there_is_said(phantom_data, spec, says):
    with pytest.raises(DataError, match=says):
        data.open_split(spec, phantom_data)


def damage(folder: Path, how: str):
    file = sorted(folder.glob("*train.array_record*"))[0]
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-200])
    if how == "flipped":
        whole = bytearray(file.read_bytes())
        whole[len(whole) // 3:len(whole) // 3 + 64] = bytes(64)
        file.write_bytes(whole)
    if how == "a shard is missing":
        file.unlink()
    if how == "its info is no JSON":
        (folder / "dataset_info.json").write_text("{")
    if how == "its info counts wrong":
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace('"12"', '"13"'))


@pytest.mark.parametrize("how", ["truncated", "flipped", "a shard is missing", "its info is no JSON",
                                 "its info counts wrong"])
def test_damaged_records_are_one_line_with_a_remedy(phantom_data, tmp_path, how):
    shutil.copytree(phantom_data / "phantom" / "dsb_like", tmp_path / "phantom" / "dsb_like")
    damage(next((tmp_path / "phantom" / "dsb_like").glob("1*")), how)
    with pytest.raises(DataError, match=r"(?s)phantom/dsb_like.*cardiojax build phantom --overwrite") as error:
        data.open_split("phantom/dsb_like:train", tmp_path)
    assert "\n" not in str(error.value)


def test_kept_in_memory_nothing_is_read_again_and_nothing_is_different(split):
    class Counting:
        read = 0

        def __len__(self):
            return len(split.source)

        def __getitem__(self, i):
            Counting.read += 1
            return split.source[i]

    counted = dataclasses.replace(split, source=Counting())
    plain, kept = batches(split), batches(counted, reading=data.Reading(workers=1, keep_gib=1.0))
    for _ in range(3 * len(split) // 4):
        jax.tree.map(np.testing.assert_array_equal, next(plain), next(kept))
    assert Counting.read == len(split)
    of_study = 1.01 * sum(np.asarray(a).nbytes for a in study_arrays(split[0], 75, data.max_slices(split)).values())
    little = batches(counted, reading=data.Reading(workers=1, keep_gib=2 * of_study / kept_in_memory.GIB))
    Counting.read = 0
    for _ in range(3 * len(split) // 4):
        next(little)
    assert Counting.read >= 3 * (len(split) - 2) - 8 + 2              # two fit; a batch or two was read ahead
    frames = Frames(split)
    a, b = (labelled_batches(frames, np.arange(3), neighbours=1, batch=4, stacks=2, seed=0, reading=reading)
            for reading in (data.Reading(), data.Reading(keep_gib=1.0)))
    for _ in range(2 * len(frames) // 4):
        jax.tree.map(np.testing.assert_array_equal, next(a), next(b))


def test_the_memory_to_keep_records_in_is_a_share_of_a_containers(tmp_path, monkeypatch):
    whole = kept_in_memory.default_limit_gib()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(kept_in_memory, "CONTAINER_LIMIT", limit)
    limit.write_text("max\n")
    assert kept_in_memory.default_limit_gib() > 0
    limit.write_text(f"{kept_in_memory.GIB}\n")
    assert kept_in_memory.default_limit_gib() == pytest.approx(1 / 16)
    assert whole >= 1 / 16
