"""UK Biobank's layouts, with invented participants."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

import data_builders  # noqa: F401
from cardiojax import phantom
from cardiojax.cli.main import main
from cardiojax.data import records
from cardiojax.errors import StudyError
from cardiojax.phantom import dicom
from cardiojax.readers import read_dicom_study, read_study
from cardiojax.readers.ukbb import participant_of, read_ukbb_zip, study_id_of

HEADER = "filename,patientid,studyid,studydate,acquisition time,seriesid,series discription\n"


def archive(folder, name, tmp_path, mixed=False, manifest="manifest.cvs", more=()):
    """Phantom study 0 as field 20209 has it: flat, a manifest with an unquoted comma in its dates, other series."""
    _, es, volumes = dicom.write_study(tmp_path / "dicom", "ukb_like", 0, name,
                                       faults=["one_series"] if mixed else ())
    lines, file = [HEADER], folder / f"{name}.zip"
    with zipfile.ZipFile(file, "w") as out:
        for i, dcm in enumerate(sorted((tmp_path / "dicom" / name).rglob("*.dcm"))):
            series = dcm.parent.name
            number = series.removeprefix("sax_")
            label = (f"CINE_segmented_LAX_{series}" if "ch" in series else
                     "CINE_segmented_SAX" if mixed else f"CINE_segmented_SAX_b{int(number) - 4}")
            out.write(dcm, f"1.3.12.{i}.dcm")
            lines.append(f"1.3.12.{i}.dcm,x,y,Jan 12, 2016,0900,{number},{label}\n")
        lines.append("1.3.12.0.dcm,x,y,Jan 12, 2016,0900,99,CINE_segmented_SAX_InlineVF\n")
        lines.append("1.3.99.dcm,x,y,Jan 12, 2016,0900,5,CINE_segmented_SAX_b1\n")
        if manifest:
            out.writestr(manifest, "".join(lines))
        for name_in_zip, content in more:
            out.writestr(name_in_zip, content)
    return file, (1, es), volumes


@pytest.mark.parametrize("mixed", [False, True])
def test_a_zip_is_the_study_that_it_holds(tmp_path, mixed, caplog):
    file, frames, _ = archive(tmp_path, "9000001_20209_2_0", tmp_path, mixed)
    study, truth = read_ukbb_zip(file, frames), phantom.study("ukb_like", 0)
    plain = read_dicom_study(tmp_path / "dicom" / "9000001_20209_2_0", frames)
    assert study.study_id == "9000001"
    assert "1 files of the manifest are not in the archive" in caplog.text
    np.testing.assert_array_equal(study.frames, plain.frames)
    np.testing.assert_allclose(study.frames[..., 0], np.clip(truth.frames[..., 0], 0, 4095), atol=1)
    assert study.slice_spacing_mm == pytest.approx(truth.slice_spacing_mm, abs=1e-3)
    found = read_study(file)
    assert len(found) == len(truth)


def test_names_of_visits():
    assert study_id_of(Path("1000018_20209_3_0.zip")) == "1000018_3_0"
    assert participant_of("1000018_3_0") == participant_of("1000018") == "1000018"


@pytest.mark.parametrize(("more", "reason"), [
    ((), "no manifest"),
    ((("manifest.csv", HEADER + "a.dcm,x,y,z,0,1,CINE_segmented_LAX_2Ch\n"),), "no short-axis cine series"),
    ((("manifest.csv", HEADER + "../../../evil.dcm,x,y,z,0,1,CINE_segmented_SAX_b1\n"),
      ("../../../evil.dcm", "no image")), "none of 1 files"),
])
def test_an_archive_without_a_study_says_so(tmp_path, more, reason):
    file = tmp_path / "9000002_20209_2_0.zip"
    with zipfile.ZipFile(file, "w") as out:
        for name, content in more:
            out.writestr(name, content)
    with pytest.raises(StudyError, match=reason):
        read_ukbb_zip(file)
    assert not (tmp_path.parents[2] / "evil.dcm").exists()


def test_a_bomb_and_a_torso_are_refused(tmp_path, monkeypatch):
    file, *_ = archive(tmp_path, "9000003_20209_2_0", tmp_path)
    file.with_name("9000004_20209_2_0.zip").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(StudyError, match=r"9000004_20209_2_0\.zip is unreadable"):
        read_ukbb_zip(file.with_name("9000004_20209_2_0.zip"))
    monkeypatch.setattr("cardiojax.readers.ukbb.MAX_BYTES", 1000)
    with pytest.raises(StudyError, match="too much for a study"):
        read_ukbb_zip(file)


def test_both_layouts_build_with_volumes(tmp_path, acdc_patient, capsys):
    source = tmp_path / "in"
    source.mkdir()
    file, frames, volumes = archive(source, "9000005_20209_2_0", tmp_path)
    file.with_name("9000005_20209_3_0.zip").write_bytes(file.read_bytes())
    (source / "frames.csv").write_text(f"eid,ED,ES\n9000005,{frames[0]},{frames[1]}\n")
    (source / "volumes.csv").write_text(
        f"eid,LVEDV (mL),LVESV (mL)\n9000005,{volumes[0]:.2f},{volumes[1]:.2f}\n9000005_3_0,,\n")
    for i in range(6, 40):
        folder = acdc_patient(tmp_path / "acdc" / f"p{i}", label=1)
        target = source / f"90000{i:02d}"
        target.mkdir()
        for number, phase in ((1, "ED"), (2, "ES")):
            (folder / f"p{i}_frame{number:02d}.nii.gz").rename(target / f"sa_{phase}.nii.gz")
            (folder / f"p{i}_frame{number:02d}_gt.nii.gz").rename(target / f"label_sa_{phase}.nii.gz")
    (source / "9000039" / "sa_ES.nii.gz").unlink()
    assert main(["build", "ukbb", "--source", str(source), "--data-dir", str(tmp_path / "out")]) == 1
    assert "1 studies left out: 9000039" in capsys.readouterr().err
    builder = tfds.builder("ukbb", data_dir=tmp_path / "out")
    studies = {s: {r["study_id"].decode(): records.decode(r) for r in builder.as_data_source(s)}
               for s in builder.info.splits}
    assert sum(map(len, studies.values())) == 35
    assert len(studies["train"]) > 25
    both = next(s for s in studies.values() if "9000005" in s)
    np.testing.assert_allclose(both["9000005"].volumes_ml, volumes, atol=0.01)
    assert both["9000005_3_0"].volumes_ml is None                 # the same split, and nothing invented
    np.testing.assert_allclose(next(s for s in studies.values() if "9000010" in s)["9000010"].volumes_ml,
                               [64 * 2.25 * 60 / 1000, 25 * 2.25 * 60 / 1000], rtol=1e-5)


def test_a_table_without_its_columns_is_one_line(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    archive(tmp_path / "in", "9000007_20209_2_0", tmp_path)
    (tmp_path / "in" / "volumes.csv").write_text("eid,LVEDV\n1,2\n")
    assert main(["build", "ukbb", "--source", str(tmp_path / "in"), "--data-dir", str(tmp_path / "out")]) == 2
    assert "volumes.csv has no column edv_ml or LVEDV (mL) or 22421-2.0" in capsys.readouterr().err
