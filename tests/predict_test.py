"""Studies as they come from a scanner or an archive: found, read, measured, and referred where they should be."""

import csv
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRBigEndian, JPEGLosslessSV1, RLELossless

import cardiojax
from cardiojax import data, phantom
from cardiojax.cli.main import main
from cardiojax.errors import StudyError
from cardiojax.files import FORMULA, cell, text_of
from cardiojax.models import sfera as sfera_model
from cardiojax.models.prediction import COLUMNS, DERIVED, Prediction, difference_std, reasons_to_refer
from cardiojax.models.sfera import SferaModel
from cardiojax.ops import devices
from cardiojax.phantom.dicom import write_study
from cardiojax.readers import find_studies, read_dicom_study, read_nifti_cine, read_study
from cardiojax.study import Patient, Study


@pytest.fixture(scope="module")
def run(phantom_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("predict") / "run"
    assert main(["train", "sfera", "--preset", "tiny", "--data", "phantom/dsb_like:train", "--data-dir",
                 str(phantom_data), "--run", str(path), "--width", "2", "--spatial-features", "6", "--lstm-features",
                 "5", "--batch", "8", "--steps", "2", "--evaluate-every", "2", "--views", "1"]) == 0
    return path


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("cardiojax"), "propagate", True)
    caplog.set_level(logging.INFO, "cardiojax")
    return lambda: "\n".join(r.message for r in caplog.records)


def rows(file):
    return list(csv.DictReader(file.open()))


@pytest.fixture(scope="module")
def challenge(tmp_path_factory):
    """A study in the challenge's layout, which names its short-axis series, and what is read of it."""
    folder = tmp_path_factory.mktemp("challenge")
    ed, es, _ = write_study(folder, "ukb_like", 2, "s", phases=6)
    return folder / "s", read_dicom_study(folder / "s", frames=(ed, es))


def as_from_an_archive(source, target, change=lambda header, folder: None):
    """Every series in a folder that is only a number, files without a suffix, `change` done to each."""
    for n, folder in enumerate(sorted(p for p in (source / "study").iterdir()), start=1):
        (target / f"{n:03d}").mkdir(parents=True)
        for i, file in enumerate(sorted(folder.iterdir())):
            header = pydicom.dcmread(file)
            change(header, folder)
            header.save_as(target / f"{n:03d}" / f"{i:08d}")
    return target


def with_other_techniques(header, folder):
    header.SeriesDescription = "cine_retro_SA" if folder.name.startswith("sax") else f"cine_{folder.name[:3]}"


def test_the_short_axis_cine_is_found_by_itself(challenge, tmp_path, lines):
    source, expected = challenge
    target = as_from_an_archive(source, tmp_path / "in" / "s", with_other_techniques)
    late = tmp_path / "late"
    write_study(late, "ukb_like", 2, "s", phases=6, other_views=False)
    for n, folder in enumerate(sorted((late / "s" / "study").iterdir()), start=900):       # parallel, later: no cine
        shutil.copytree(folder, target / str(n))
        for file in (target / str(n)).iterdir():
            header = pydicom.dcmread(file)
            header.SeriesDescription, header.SeriesNumber = "MOLLI_SA", n
            header.StudyInstanceUID = pydicom.dcmread(target / "001" / "00000000").StudyInstanceUID
            header.PixelData = bytes(len(header.PixelData))
            header.save_as(file)
    (target / "DICOMDIR").write_bytes(b"\0" * 200)
    assert find_studies(tmp_path / "in") == [target] == find_studies(target / "DICOMDIR")
    frames = expected.frame_numbers
    np.testing.assert_array_equal(read_study(target, frames).frames, expected.frames)
    assert "'cine_2ch' (another plane)" in lines()
    assert "'MOLLI_SA' (by its name)" in lines()
    assert not read_study(target, frames, series="molli").frames.any()
    with pytest.raises(StudyError, match=r"no series is named 'nothing'; there are .*'cine_2ch'"):
        read_study(target, series="nothing")


def test_series_of_a_study_without_its_uid_are_found_together(challenge, tmp_path):
    """As in the challenge's own files, from which it was removed."""
    target = as_from_an_archive(challenge[0], tmp_path / "in" / "s",
                                lambda header, _: delattr(header, "StudyInstanceUID"))
    assert find_studies(tmp_path) == [target]
    np.testing.assert_array_equal(read_study(target, challenge[1].frame_numbers).frames, challenge[1].frames)


def test_two_studies_in_one_folder_are_refused(challenge, tmp_path):
    for n in range(2):
        uid = pydicom.uid.generate_uid()
        as_from_an_archive(challenge[0], tmp_path / "both" / str(n),
                           lambda header, _, uid=uid: setattr(header, "StudyInstanceUID", uid))
    with pytest.raises(StudyError, match="holds 2 studies"):
        read_study(tmp_path / "both")
    assert find_studies(tmp_path) == [tmp_path / "both" / "0", tmp_path / "both" / "1"]


def big_endian(file):
    header = pydicom.dcmread(file)
    header.PixelData = header.pixel_array.astype(">u2").tobytes()
    header.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(file, header, little_endian=False, implicit_vr=False)


def run_length(file):
    header = pydicom.dcmread(file)
    header.compress(RLELossless)
    header.save_as(file)


def jpeg_lossless(file):
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(file))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(file))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize("encode", [big_endian, run_length, jpeg_lossless])
def test_other_encodings_hold_the_same_pixels(challenge, tmp_path, encode):
    source, expected = challenge
    shutil.copytree(source, tmp_path / "s")
    for file in (tmp_path / "s").rglob("sax_*/*.dcm"):
        encode(file)
    read = read_dicom_study(tmp_path / "s", frames=expected.frame_numbers)
    np.testing.assert_array_equal(read.frames, expected.frames)


def test_a_missing_decoder_is_named(challenge, tmp_path, lines, monkeypatch):
    shutil.copytree(challenge[0], tmp_path / "s")
    for file in (tmp_path / "s").rglob("sax_*/*.dcm"):
        jpeg_lossless(file)
    decoder = pydicom.pixels.get_decoder(JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(StudyError, match="pixels of none of"):
        read_dicom_study(tmp_path / "s", frames=(1, 3))
    assert "pip install 'cardiojax[compressed]'" in lines()


def test_a_4d_nifti_is_a_cine(tmp_path):
    levels = phantom.contraction(np.arange(20) / 20)
    frames, _, heart = phantom.cine("dsb_like", 3, levels)
    image = nib.Nifti1Image(frames.transpose(2, 1, 0, 3), None)
    image.header.set_zooms((heart.pixel, heart.pixel, heart.slice_spacing, 0.045))
    nib.save(image, tmp_path / "p7.nii.gz")
    found = read_study(tmp_path / "p7.nii.gz")
    es = int(np.abs(levels - 1).argmin()) + 1
    assert found.study_id == "p7"
    assert found.frame_numbers[0] == 1
    assert abs(found.frame_numbers[1] - es) <= 2
    given = read_nifti_cine(tmp_path / "p7.nii.gz", (2, 9), "p7")
    np.testing.assert_allclose(given.frames, frames[..., [1, 8]], atol=1e-3)
    assert given.slice_spacing_mm == pytest.approx(heart.slice_spacing, rel=1e-5)
    with pytest.raises(StudyError, match="no phase 99, the cine has 20"):
        read_nifti_cine(tmp_path / "p7.nii.gz", (1, 99), "p7")


def study(n=10, spacing_mm=8.0, **more):
    return Study("s", np.zeros((n, 4, 4, 2), np.uint8), spacing_mm, **more)


@pytest.mark.parametrize(("changed", "says"), [
    ({}, None), ({"study": study(5, 20.0)}, "5 slices, fewer than 6"), ({"study": study(7)}, "span 56 mm"),
    ({"study": study(notes=("gap of 16.0 mm",))}, "gap of 16.0 mm"), ({"mean_ml": (60, 90)}, "not physiological"),
    ({"ef_std_percent": 16.0}, "EF is uncertain"), ({"distance": 3.0}, "unlike the training studies"),
    ({"ed_area": [3.0, 5, 4]}, "apex seems to be missing"),
    ({"ed_area": None}, None)])
def test_a_study_is_referred_for_a_reason(changed, says):
    usual = {"study": study(), "mean_ml": (120, 50), "ef_std_percent": 4.0, "distance": 0.5, "ed_area": [3.0, 5, 1]}
    reasons = reasons_to_refer(**{**usual, **changed})
    assert reasons == [] if says is None else len(reasons) == 1 and says in reasons[0]


def test_a_prediction_needs_no_training_libraries(run):
    """Loading a run and measuring a study import neither TFDS, grain, Orbax nor TensorBoard."""
    program = f"""
import sys
import cardiojax
from cardiojax import phantom
cardiojax.load({str(run)!r}).predict(phantom.study("dsb_like", 0))
heavy = {{"tensorflow_datasets", "grain", "orbax", "tensorboardX", "sklearn", "cardiojax.train"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predict_goes_on_where_it_stopped(run, tmp_path, monkeypatch):
    for i in range(3):
        write_study(tmp_path / "in", "ukb_like", i, str(i), phases=4, other_views=False)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path / 'in' / str(i)}\n" for i in range(3)))
    words = ["predict", str(tmp_path / "list.txt"), "--run", str(run), "--csv", str(tmp_path / "out.csv"),
             "--ed", "1", "--es", "2", "--figures", str(tmp_path / "figures")]
    assert main(words) == 0
    whole = (tmp_path / "out.csv").read_text()
    assert [(r["ed_frame"], r["es_frame"]) for r in rows(tmp_path / "out.csv")] == [("1", "2")] * 3
    for row in rows(tmp_path / "out.csv"):
        assert 0 <= float(row["p_ef_below_40"]) <= float(row["p_ef_below_50"]) <= 1
        assert (tmp_path / "figures" / f"{row['study_id']}.png").stat().st_size > 1000
    (tmp_path / "out.csv").write_text(whole[:-20])                    # the last line as a killed process leaves it
    seen = []
    original = SferaModel.predict
    monkeypatch.setattr(SferaModel, "predict", lambda self, study: seen.append(study.study_id) or original(self, study))
    assert main([*words, "--resume"]) == 0
    assert (tmp_path / "out.csv").read_text() == whole
    assert seen == ["2"]
    write_study(tmp_path / "other", "ukb_like", 1, "1", phases=4, other_views=False)
    words[1:2] = [str(tmp_path / "in"), str(tmp_path / "other")]
    assert main([*words, "--resume"]) == 2                            # two studies are called 1
    assert (tmp_path / "out.csv").read_text() == whole


def test_processes_share_the_studies(run, tmp_path, capsys):
    """The table and the report's index of one process, after three, one of which is lost and started again."""
    for i in range(5):
        write_study(tmp_path / "in", "ukb_like", i, str(i), phases=2, other_views=False)
    (tmp_path / "in/2b").mkdir()
    (tmp_path / "in/2b/IM-0001.dcm").write_text("text")

    def predict(name, *more):
        return main(["predict", str(tmp_path / "in"), "--run", str(run), "--csv", str(tmp_path / f"{name}.csv"),
                     "--report", str(tmp_path / name), *map(str, more)])

    def share(process, *more):
        return predict("shared", "--processes", 3, "--process", process, *more)

    assert predict("alone") == 1
    parts, table = tmp_path / "shared.csv.parts-of-3", tmp_path / "shared.csv"
    assert share(2) == 0
    assert share(0) == 1                                              # 2b is one of its own
    assert not table.exists()
    (parts / "0/failed.json").unlink()                                # as a killed one leaves it
    volumes = parts / "0/volumes.csv"
    volumes.write_text(volumes.read_text()[:-20])
    assert share(1) == 0
    assert not table.exists()
    assert share(0) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert share(0, "--resume") == 1
    assert table.read_text() == (tmp_path / "alone.csv").read_text()
    assert (tmp_path / "shared/index.html").read_text() == (tmp_path / "alone/index.html").read_text()
    assert not parts.exists()
    assert [share(i, "--resume") for i in range(3)] == [1, 0, 0]      # nothing left to measure
    assert table.read_text() == (tmp_path / "alone.csv").read_text()


def test_accelerators_take_turns(run, phantom_data, tmp_path, monkeypatch):
    """Three devices give the numbers of one, in order: batches of studies, and the command's table."""
    split = data.open_split("phantom/dsb_like:train", phantom_data)
    alone = [p.row() for _, p in cardiojax.load(run).predict_many(split, batch=2)]
    for i in range(4):
        write_study(tmp_path / "in", "ukb_like", i, str(i), phases=4, other_views=False)
    words = ["predict", str(tmp_path / "in"), "--run", str(run), "--csv"]
    assert main([*words, str(tmp_path / "one.csv")]) == 0
    monkeypatch.setattr(devices, "accelerators", lambda: jax.devices()[:3])
    model = cardiojax.load(run)
    assert [p.row() for _, p in model.predict_many(split, batch=2)] == alone
    assert [r.readout.scaling.low.devices() for r in model.replicas] == [{d} for d in jax.devices()[:3]]
    assert main([*words, str(tmp_path / "three.csv")]) == 0
    assert (tmp_path / "three.csv").read_text() == (tmp_path / "one.csv").read_text()


@given(st.integers(0, 20), st.integers(1, 4))
def test_turns_keep_the_order_and_every_thread_its_items(items, count):
    assert list(devices.by_turns(lambda which, k: (which, k), range(items), count)) == [
        (k % count, k) for k in range(items)]


@given(st.integers(0, 5))
def test_all_are_fetched_in_order_one_behind(count):
    asked = []

    def arrays():
        for k in range(count):
            asked.append(k)
            yield jax.numpy.full(2, k)

    for k, array in enumerate(devices.fetched(arrays())):
        np.testing.assert_array_equal(array, [k, k])
        assert len(asked) == min(k + 2, count)           # the next is being computed
    assert len(asked) == count


def test_what_fails_on_its_turn_is_raised_in_order():
    def work(which, k):
        return 1 // (2 - k)

    found = devices.by_turns(work, range(4), 2)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_name_is_no_formula(run, tmp_path):
    """Not in the table; the page has it as it is, markup too; and --resume and --frames know it again."""
    names = ["=1+2", "-4", "@sum(a)", "<b>a", "plain"]
    for i, name in enumerate(names):
        write_study(tmp_path / "in", "ukb_like", i, name, phases=4, other_views=False)
    out = tmp_path / "out.csv"
    words = ["predict", str(tmp_path / "in"), "--run", str(run), "--csv", str(out), "--report", str(tmp_path / "r")]
    assert main(words) == 0
    whole = {row["study_id"]: row for row in rows(out)}
    assert set(whole) == {"'=1+2", "'-4", "'@sum(a)", names[3], "plain"}
    index = (tmp_path / "r" / "index.html").read_text()
    assert ">=1+2<" in index
    assert "<b>a" not in index
    assert "&lt;b&gt;a" in index
    assert (tmp_path / "r" / "=1+2.html").exists()
    out.write_text("\n".join(out.read_text().splitlines()[:3]) + "\n")            # two are left
    assert main([*words, "--resume"]) == 0
    assert {row["study_id"]: row for row in rows(out)} == whole
    (tmp_path / "frames.csv").write_text("study_id,ed,es\n'=1+2,2,4\n-4,1,3\n")
    assert main([*words, "--frames", str(tmp_path / "frames.csv")]) == 0
    frames = {row["study_id"]: (row["ed_frame"], row["es_frame"]) for row in rows(out)}
    assert (frames["'=1+2"], frames["'-4"]) == (("2", "4"), ("1", "3"))


@given(st.text(st.characters(blacklist_categories=["Cs"])) | st.text("'=-a", max_size=5))
def test_a_cell_is_its_text(text):
    assert not cell(text).startswith(FORMULA)
    assert text_of(cell(text)) == text


def test_a_table_names_the_frames(run, tmp_path):
    write_study(tmp_path / "in", "ukb_like", 0, "a", phases=4, other_views=False)
    (tmp_path / "frames.csv").write_text("study_id,ed,es\na,2,4\n")
    words = ["predict", str(tmp_path / "in"), "--run", str(run), "--csv", str(tmp_path / "out.csv"), "--frames"]
    assert main([*words, str(tmp_path / "frames.csv")]) == 0
    assert [(r["ed_frame"], r["es_frame"]) for r in rows(tmp_path / "out.csv")] == [("2", "4")]
    assert main([*words, str(tmp_path / "in")]) == 2


def broken(folder, challenge):
    """Nine studies that cannot be measured, each in its own way → what is said of each; and a folder without any."""
    good = challenge[0]
    (folder / "empty").mkdir(parents=True)
    (folder / "text").mkdir()
    (folder / "text" / "report.dcm").write_text("no image")
    write_study(folder, "ukb_like", 0, "one_phase", phases=1, other_views=False)
    shutil.copytree(good, folder / "cut_off")
    for file in (folder / "cut_off").rglob("*.dcm"):
        file.write_bytes(file.read_bytes()[:3000])
    as_from_an_archive(good, folder / "no_position", lambda header, _: delattr(header, "ImagePositionPatient"))
    (folder / "1000001_20209_2_0.zip").write_bytes(b"PK\3\4 and no more")
    (folder / "half").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 7), np.float32), np.eye(4)), folder / "half" / "ED.nii.gz")
    nib.save(nib.Nifti1Image(np.full((8, 8, 7, 3), np.nan, np.float32), np.eye(4)), folder / "nan.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((40, 40, 7, 3), np.float32), np.diag([2, 2, 8, 1])), folder / "grey.nii.gz")
    (folder / "patient001").mkdir()
    (folder / "patient001" / "Info.cfg").write_text("Group: NOR\n")
    return {"text": "none of 1 files", "one_phase": "no ES frame",
            "cut_off": "no slice's cine can be read", "no_position": "none of", "1000001": "is unreadable",
            "half": "ES.nii.gz is missing", "nan": "NaN", "grey": "about the same value",
            "patient001": "does not name the ED and ES"}


def test_nine_broken_studies_do_not_stop_the_others(run, challenge, tmp_path, capsys):
    reasons = broken(tmp_path / "in", challenge)
    for i in range(2):
        write_study(tmp_path / "in", "ukb_like", i, f"good{i}", phases=4, other_views=False)
    assert main(["predict", str(tmp_path / "in"), "--run", str(run), "--csv", str(tmp_path / "out.csv")]) == 1
    said = capsys.readouterr().err
    for study_id, reason in reasons.items():
        assert any(f"study {study_id}:" in line and reason in line for line in said.splitlines()), (study_id, said)
    assert "Traceback" not in said
    assert "2 studies measured, 9 failed" in said
    assert "empty left out: there is no image in it" in said
    assert [r["study_id"] for r in rows(tmp_path / "out.csv")] == ["good0", "good1"]


def test_indices_and_output_by_hand():
    """A person of 180 cm and 80 kg has 2 m²; 60 beats of 100 ml are 6 l."""
    study = Study("a", np.zeros((7, 4, 4, 2)), 8.0, patient=Patient(180.0, 80.0, 60.0))
    row = Prediction("a", 180.0, 80.0, 55.6, 1, 1, 1, lv_mass_g=120.0,
                     sv_std_ml=difference_std(np.array([1.0, 1.5]), 0.5625), study=study).row()
    assert {k: row[k] for k in DERIVED if k != "version"} == {
        "sv_ml": "100.00", "heart_rate_bpm": "60.00", "cardiac_output_l_per_min": "6.00", "bsa_m2": "2.00",
        "edv_index_ml_per_m2": "90.00", "esv_index_ml_per_m2": "40.00", "sv_index_ml_per_m2": "50.00",
        "lv_mass_index_g_per_m2": "60.00", "slices": "7", "slice_spacing_mm": "8.00", "rv_ef_percent": "",
        "sv_std_ml": "1.25"}
    unknown = Prediction("a", 180.0, 80.0, 55.6, 1, 1, 1, study=study.replace(patient=Patient(height_cm=180))).row()
    assert not any(unknown[k] for k in ("heart_rate_bpm", "cardiac_output_l_per_min", "bsa_m2", "edv_index_ml_per_m2"))


def test_what_the_header_says_of_the_patient_and_what_a_table_says_first(run, tmp_path):
    write_study(tmp_path / "in", "ukb_like", 0, "a", phases=4, other_views=False)
    for file in (tmp_path / "in").rglob("*.dcm"):
        header = pydicom.dcmread(file)
        header.PatientSize, header.PatientWeight, header.NominalInterval = "1.8", "80", "1000"
        header.save_as(file)
    assert read_study(tmp_path / "in" / "a").patient == Patient(180.0, 80.0, 60.0)
    (tmp_path / "patients.csv").write_text("study_id,height_cm,weight_kg\na,180,45\n")
    words = ["predict", str(tmp_path / "in"), "--run", str(run), "--csv", str(tmp_path / "out.csv"), "--patients"]
    assert main([*words, str(tmp_path / "patients.csv")]) == 0
    row, = rows(tmp_path / "out.csv")
    assert (row["bsa_m2"], row["heart_rate_bpm"], row["model"]) == ("1.50", "60.00", "run")
    (tmp_path / "wrong.csv").write_text("study_id,height_cm\na,tall\n")
    assert main([*words, str(tmp_path / "wrong.csv")]) == 2


def test_the_page_names_every_column_in_order():
    page = (Path(__file__).parents[1] / "docs" / "predict.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", " ".join(cells)) == list(COLUMNS)


RIGHT = {                   # of ../shared/data/faults: (ED, ES), slices, spacing in mm of every study
    "acdc_4d_only": [("1", "3", 4, 20)], "enhanced_mr": [("1", "3", 4, 20)], "labels_beside": [("1", "3", 4, 20)],
    "lost_file": [("1", "3", 4, 20)], "mnms_names": [("", "", 4, 20)], "no_preamble": [("1", "3", 4, 20)],
    "no_trigger_no_number": [("1", "3", 4, 20)], "pixdim_one": [("1", "3", 4, 20)],
    "one_uid_for_all": [("1", "2", 2, 20), ("1", "2", 2, 20), ("1", "2", 2, 18)],
    "position_jitter": [("1", "3", 4, 20)], "running_numbers_no_count": [("1", "3", 4, 20)],
    "two_phases_running_numbers": [("6", "3", 4, 20)]}


@pytest.mark.shared
def test_what_strangers_bring_is_measured_right(shared, run, tmp_path):
    """Each on its own, as its user does; of the same phases of one heart, most of them."""
    assert {folder.name for folder in (shared / "faults").iterdir() if folder.is_dir()} == set(RIGHT)
    edv_ml = []
    for name, expected in RIGHT.items():
        table = tmp_path / f"{name}.csv"
        assert main(["predict", str(shared / "faults" / name), "--run", str(run), "--csv", str(table)]) == 0, name
        found = rows(table)
        assert [(r["ed_frame"], r["es_frame"], int(r["slices"]), round(float(r["slice_spacing_mm"]), 1))
                for r in found] == expected, name
        edv_ml += [float(r["edv_ml"]) for r in found if r["es_frame"] != "2" and r["ed_frame"] != "6"]
    np.testing.assert_allclose(edv_ml, np.median(edv_ml), rtol=5e-3)


def test_the_compiler_knows_a_gpus_options():
    """They are parsed whatever the platform; what they do is a GPU's to show."""
    assert sfera_model._applied("gpu") is not sfera_model._applied("cpu")
    assert float(jax.jit(lambda x: x + 1, compiler_options=sfera_model.AS_ONE_GRAPH)(1.0)) == 2
    with pytest.raises(Exception, match="No such compile option"):
        jax.jit(lambda x: x + 2, compiler_options={"xla_gpu_nonsense": 1})(1.0)
