"""What all builders do: exclusions, the paper's preparation, no patient in two splits."""

import csv

import numpy as np
import pytest
import tensorflow_datasets as tfds

import data_builders  # noqa: F401
from cardiojax import preparation
from cardiojax.cli.main import main
from cardiojax.data import records
from cardiojax.data.study_builder import PAPER, record
from cardiojax.errors import DataError
from cardiojax.readers.nifti import read_acdc
from cardiojax.study import Study
from data_builders.acdc import acdc_dataset_builder


def stack(gaps=(), lv=slice(None), slices=8) -> Study:
    """Slices 10 mm apart, but 20 mm after each of `gaps` (from 0); an LV on `lv` of them."""
    rng = np.random.default_rng(0)
    masks = np.zeros((slices, 30, 30, 2), np.uint8)
    masks[lv, 10:20, 10:20] = 1
    positions = 10.0 * (np.arange(slices) + np.array([sum(g < i for g in gaps) for i in range(slices)]))
    return Study(study_id="s", frames=rng.uniform(0, 100, masks.shape).astype(np.float32), masks=masks,
                 slice_spacing_mm=10.0, positions_mm=positions)


@pytest.mark.parametrize(("gaps", "longest"), [
    ((), 8), ((3,), 4), ((0,), 7), ((6,), 7), ((2, 5), 3), ((0, 1, 2, 3, 4, 5, 6), 1)])
def test_the_longest_run_without_a_gap_by_hand(gaps, longest):
    assert stack(gaps).consecutive_slices == longest
    mirrored = stack(gaps)
    assert mirrored.replace(positions_mm=-mirrored.positions_mm).consecutive_slices == longest


def test_a_gap_is_more_than_one_and_a_half_spacings():
    for step, longest in ((14.9, 3), (15.1, 2)):
        study = stack(slices=3).replace(positions_mm=np.array([0.0, 10.0, 10.0 + step]))
        assert study.consecutive_slices == longest


def test_evenly_spaced_slices_are_all_consecutive():
    assert stack(slices=7).replace(positions_mm=None).consecutive_slices == 7


@pytest.mark.parametrize(("study", "kept"), [
    (stack(), 8), (stack(gaps=(2,)), 8), (stack(gaps=(3,)), None),              # runs of 8; 3 and 5; 4 and 4
    (stack(lv=slice(1, 6)), 5), (stack(lv=slice(1, 5)), None),                  # base … apex of 5 and 4 slices
    (stack(gaps=(0, 5), lv=slice(1, 6)), 5), (stack(gaps=(4,), lv=slice(1, 7)), None)])
def test_papers_rule_counts_consecutive_slices_between_base_and_apex(study, kept):
    def made(training):
        return record(study, "d", PAPER, training)

    if kept is None:
        with pytest.raises(ValueError, match="consecutive slices, left out of training"):
            made(training=True)
    else:
        assert len(made(training=True)["frames"]) == kept
    assert len(made(training=False)["frames"]) == np.count_nonzero(study.masks.any(axis=(1, 2, 3)))   # test keeps all


def exclusions(folder) -> dict[str, str]:
    with (folder / "exclusions.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["study_id", "reason"]
    assert len(dict(rows[1:])) == len(rows) - 1
    return dict(rows[1:])


def test_paper_config_crops_at_the_image_centre_and_writes_every_exclusion(tmp_path, acdc_patient, capsys):
    training = tmp_path / "in" / "training"
    for i in range(1, 10):
        acdc_patient(training / f"patient{i:03d}")
    acdc_patient(training / "patient010", shape=(20, 24, 4))
    acdc_patient(training / "patient011", label=9)
    acdc_patient(tmp_path / "in" / "testing" / "patient101", shape=(20, 24, 4))
    (tmp_path / "list.txt").write_text("patient002\r\n\n  patient003 \npatient101\npatient999\n")
    words = ["build", "acdc", "--source", str(tmp_path / "in"), "--data-dir", str(tmp_path / "out"),
             "--exclude", str(tmp_path / "list.txt")]
    assert main([*words, "--config", "paper"]) == 1
    err = capsys.readouterr().err
    assert "study patient999: to be excluded, but acdc has no such study" in err
    assert "study patient101: to be excluded, but kept, as it is in the test split" in err
    assert "4 studies left out: patient002, patient003, patient010, patient011" in err
    left_out = exclusions(tmp_path / "out" / "acdc" / "paper" / "1.0.0")
    assert {**left_out} == {
        "patient002": "excluded by the user's list", "patient003": "excluded by the user's list",
        "patient010": "4 slices, left out of training (at least 5)",
        "patient011": left_out["patient011"]}
    assert "unknown labels" in left_out["patient011"]
    builder = tfds.builder("acdc/paper", data_dir=tmp_path / "out")
    made = {s: [records.decode(r) for r in builder.as_data_source(s)] for s in builder.info.splits}
    assert [s.study_id for s in made["test"]] == ["patient101"]
    assert {s.study_id for part in made.values() for s in part} == {
        f"patient{i:03d}" for i in (1, 4, 5, 6, 7, 8, 9, 101)}
    expected = preparation.prepare(preparation.trim(read_acdc(training / made["train"][0].study_id)), "image")
    np.testing.assert_array_equal(made["train"][0].frames, expected.frames)
    assert main(words) == 1                                                    # "full" keeps such a file too
    assert set(exclusions(tmp_path / "out" / "acdc" / "full" / "1.0.0")) == set(left_out)


def test_a_list_alone_is_no_failure_and_a_missing_one_a_line(tmp_path, acdc_patient, capsys):
    for i in range(1, 11):
        acdc_patient(tmp_path / "in" / "training" / f"patient{i:03d}")
    acdc_patient(tmp_path / "in" / "testing" / "patient101")
    words = ["build", "acdc", "--source", str(tmp_path / "in"), "--data-dir", str(tmp_path / "out"), "--exclude"]
    assert main([*words, str(tmp_path / "none.txt")]) == 2
    assert "--exclude" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("patient005\n")
    assert main([*words, str(tmp_path / "list.txt")]) == 0


def test_a_killed_build_leaves_neither_records_nor_exclusions(tmp_path, acdc_patient, monkeypatch):
    """Both appear with the folder, by one rename."""
    for i in range(1, 11):
        acdc_patient(tmp_path / "in" / "training" / f"patient{i:03d}")
    monkeypatch.setattr("cardiojax.data.study_builder.write_rows", lambda *_: 1 / 0)
    builder = acdc_dataset_builder.Builder(data_dir=tmp_path / "out")
    with pytest.raises(ZeroDivisionError):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "in"))
    assert not list((tmp_path / "out").rglob("exclusions.csv"))
    assert not (tmp_path / "out" / "acdc" / "full" / "1.0.0").exists()


def test_a_patient_in_two_splits_is_refused(tmp_path):
    builder = tfds.builder("ukbb", data_dir=tmp_path)
    visits = {"train": [("9000001", None)], "test": [("9000001_3_0", None)]}
    with pytest.raises(DataError, match="patient 9000001 of ukbb is in both train and test"):
        builder._splits(visits)


def test_one_scan_under_two_names_is_named(tmp_path, acdc_patient, capsys):
    """All invented patients have the same images, here of another shape each, but for two."""
    for i in range(1, 8):
        acdc_patient(tmp_path / "in" / "training" / f"patient{i:03d}", shape=(20, 24 + min(i, 6), 6))
    assert main(["build", "acdc", "--source", str(tmp_path / "in"), "--data-dir", str(tmp_path / "out")]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "one scan under two names" in line]
    assert len(told) == 1
    assert {"patient006", "patient007"} <= set(told[0].replace(":", " ").split())
