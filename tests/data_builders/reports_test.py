import csv

import numpy as np
import pytest
import tensorflow_datasets as tfds

import data_builders  # noqa: F401
from cardiojax import preparation
from cardiojax.cli.main import main
from cardiojax.data import records
from cardiojax.phantom.dicom import write_study
from cardiojax.readers import read_study
from tests.data_builders.mnms_test import write_patient


def write_table(folder, *rows):
    with (folder / "volumes.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("study_id", "edv_ml", "esv_ml", "ed", "es", "split"), *rows])


def built(folder, out):
    return main(["build", "reports", "--config", "full", "--source", str(folder), "--data-dir", str(out)])


def test_images_of_any_layout_and_volumes_of_a_table(tmp_path, capsys):
    """DICOM and NIfTI side by side; phases named or found; who is in one of both alone is said."""
    source = tmp_path / "in"
    _, _, volumes_ml = write_study(source / "dicom", "dsb_like", 3, "A", phases=5)
    for name in ("B", "C", "D"):
        write_patient(source / "nifti" / name)
        (source / "nifti" / name / f"{name}_sa_gt.nii.gz").unlink()
    write_table(source, ("A", *volumes_ml, "", "", "train"), ("B", 150, 60, 2, 4, "validation"),
                ("D", 140, 70, 9, 4, "test"), ("E", 120, 50, "", "", "train"))
    assert built(source, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "study C: not in volumes.csv, left out" in said
    assert "study E: in volumes.csv, but there are no images of it" in said
    assert "study D: there is no phase 9, the cine has 5" in said
    builder = tfds.builder("reports", data_dir=tmp_path / "out")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 1, "validation": 1}
    found = records.decode(builder.as_data_source("validation")[0])
    named = preparation.prepare(read_study(source / "nifti" / "B", (2, 4)))
    np.testing.assert_array_equal(found.frames, named.frames)
    assert found.volumes_ml.tolist() == [150, 60]
    assert found.masks is None
    np.testing.assert_allclose(records.decode(builder.as_data_source("train")[0]).volumes_ml, volumes_ml, rtol=1e-5)
    left_out = next((tmp_path / "out").rglob("exclusions.csv")).read_text()
    assert {line.split(",")[0] for line in left_out.splitlines()[1:]} == {"D", "E"}


@pytest.mark.parametrize(("rows", "says"), [
    ([("A", 100, 120, "", "", "")], "esv_ml of study A is '120', expected less than the EDV, 100"),
    ([("A", "nan", 60, "", "", "")], "edv_ml of study A is 'nan', expected a number of ml above 0"),
    ([("A", 100, 60, 0, 1, "")], "ed of study A is '0', expected a phase from 1 on"),
    ([("A", 100, 60, 2, "", "")], "study A has one of ed and es, expected both or neither"),
    ([("A", 100, 60, "", "", "training")], "split of study A is 'training', expected train, validation, test"),
    ([("A", 100, 60, "", "", ""), ("A", 100, 60, "", "", "")], "study A has two rows"),
])
def test_a_wrong_row_is_one_line(tmp_path, capsys, rows, says):
    write_patient(tmp_path / "A")
    write_table(tmp_path, *rows)
    assert built(tmp_path, tmp_path / "out") == 2
    assert f"volumes.csv: {says}" in capsys.readouterr().err.splitlines()[-1]


def test_two_studies_of_one_name_are_refused(tmp_path, capsys):
    for folder in ("x", "y"):
        write_patient(tmp_path / folder / "A")
    write_table(tmp_path, ("A", 100, 60, "", "", ""))
    assert built(tmp_path, tmp_path / "out") == 2
    assert "are called that" in capsys.readouterr().err.splitlines()[-1]
