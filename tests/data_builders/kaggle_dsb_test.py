import csv
import logging

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds

import data_builders  # noqa: F401
from cardiojax import phantom
from cardiojax.data import records
from cardiojax.phantom.dicom import write_challenge, write_study
from data_builders.kaggle_dsb.kaggle_dsb_dataset_builder import split_by_hash


def built(source, data_dir):
    builder = tfds.builder("kaggle_dsb", data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source))
    return builder


def test_official_splits_and_their_volumes(tmp_path):
    """The official splits, each with its own table."""
    source = tmp_path / "in"
    for first, folder in ((1, "train"), (501, "validate"), (701, "test")):
        write_challenge(source / "x", "ukb_like", range(2), phases=2)
        (source / "x" / "train").rename(source / folder)
        for study in (1, 2):
            (source / folder / str(study)).rename(source / folder / str(first + study - 1))
    (source / "validate.csv").write_text("Id,Systole,Diastole\n501,31.5,101.25\n")
    (source / "solution.csv").write_text("Id,Volume,Usage\n702_Diastole,120.5,Private\n702_Systole,48.25,Private\n")
    builder = built(source, tmp_path / "out")
    assert set(builder.info.splits) == {"test", "train", "validation"}
    assert {s.num_examples for s in builder.info.splits.values()} == {2}
    by_id = {r["study_id"].decode(): r["volumes_ml"] for split in ("validation", "test")
             for r in builder.as_data_source(split)}
    np.testing.assert_allclose(by_id["501"], [101.25, 31.5])
    np.testing.assert_allclose(by_id["702"], [120.5, 48.25])


def test_annotated_frames_and_masks_are_used(tmp_path):
    source = tmp_path / "in"
    write_challenge(source, "ukb_like", range(1), phases=6)
    (source / "annotations" / "masks").mkdir(parents=True)
    (source / "annotations" / "frames.csv").write_text("Id,ED,ES\n1,2,5\n")
    frames, _, _ = phantom.cine("ukb_like", 0, phantom.contraction(np.arange(6) / 6))
    heart = phantom.subject("ukb_like", 0)
    from cardiojax.phantom.dicom import ALONG_COL, ALONG_ROW, APEX
    n, pixel = frames.shape[1], heart.pixel
    depth = phantom.slice_depths_mm(heart)
    origin = 40.0 * ALONG_COL + depth[0] * APEX - (n - 1) / 2 * pixel * (ALONG_COL + ALONG_ROW)
    lps = np.column_stack([ALONG_ROW * pixel, ALONG_COL * pixel, APEX * heart.slice_spacing, origin])
    affine = np.diag([-1.0, -1, 1, 1]) @ np.vstack([lps, [0, 0, 0, 1]])
    for phase in ("ED", "ES"):
        volume = np.zeros((n, n, len(depth)), np.uint8)
        volume[10:20, 30:50] = 1                                       # columns 10–19, rows 30–49
        nib.save(nib.Nifti1Image(volume, affine), source / "annotations" / "masks" / f"1_{phase}.nii.gz")
    builder = built(source, tmp_path / "out")
    split = next(iter(builder.info.splits))
    study = records.decode(builder.as_data_source(split)[0])
    area = (study.masks == 1).sum(axis=(1, 2))
    np.testing.assert_allclose(area, 200 * pixel**2, rtol=0.05)
    from cardiojax.readers import read_dicom_study
    expected = read_dicom_study(source / "train" / "1", frames=(2, 5)).frames
    assert np.corrcoef(expected[3, 20:-20, 20:-20, 0].ravel(), frames[3, 20:-20, 20:-20, 1].ravel())[0, 1] > 0.99


def test_the_hash_split_is_fixed_and_near_60_10_30(tmp_path):
    folders = [tmp_path / str(i) for i in range(1, 501)]
    splits = split_by_hash(folders)
    assert {n: len(s) for n, s in splits.items()} == {"train": 306, "validation": 48, "test": 146}
    few = split_by_hash(folders[:180])
    for name, members in few.items():
        assert set(members) <= set(splits[name])                      # a study keeps its split as others come


@pytest.mark.shared
def test_a_study_of_the_real_challenge(shared, caplog, monkeypatch):
    """Study 11: a repeated position, a gap, and a mask plane that finds no slice."""
    from cardiojax.readers import read_dicom_study
    monkeypatch.setattr(logging.getLogger("cardiojax"), "propagate", True)
    root = shared / "kaggle_dsb"
    study = read_dicom_study(root / "train" / "train" / "11", frames=(1, 12), masks=tuple(
        root / "annotations" / "masks" / f"11_{p}.nii.gz" for p in ("ED", "ES")))
    assert "slice sax_930 dropped: same position as sax_931" in caplog.text
    assert "gap of 20.0 mm" in caplog.text
    assert "has no slice within 3 mm" in caplog.text
    with (root / "train.csv").open() as stream:
        row = next(r for r in csv.DictReader(stream) if r["Id"] == "11")
    assert study.volumes_from_masks_ml()[0] == pytest.approx(float(row["Diastole"]), rel=0.2)


def test_two_phases_without_annotation_are_ed_and_es(tmp_path):
    from cardiojax.readers import read_dicom_study
    write_study(tmp_path, "ukb_like", 0, "1", phases=2, other_views=False)
    made = phantom.study("ukb_like", 0)
    np.testing.assert_allclose(read_dicom_study(tmp_path / "1").frames[..., 0],
                               np.clip(made.frames[..., 0], 0, 4095), atol=1)
