"""Faults that strangers' files have, each kind made by hand; random exams stand in `exams_test.py`."""

import logging
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from cardiojax.errors import StudyError
from cardiojax.phantom.dicom import write_study
from cardiojax.readers import dicom_header, find_studies, read_cine, read_dicom_cine, read_dicom_study, read_study
from cardiojax.readers.dicom_header import Image, dcmread, is_dicom, read_header
from cardiojax.readers.geometry import Plane, clusters
from cardiojax.readers.phases import Acquisition, in_time, nearer_the_r_wave, numbered


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("cardiojax"), "propagate", True)
    caplog.set_level(logging.INFO, "cardiojax")
    return lambda: "\n".join(r.message for r in caplog.records)


def image(tmp_path, **changes) -> Image:
    plane = Plane(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (1.0, 1.0), (4, 4))
    fields = {"path": tmp_path / "a" / "b", "plane": plane, "series": 1, "third": 0, "number": None, "order": 0,
              "trigger_ms": None, "temporal": None, "clock_s": None, "cycle_ms": None, "phases": None,
              "thickness_mm": 8.0, "slice_location": None, "description": "", "study_uid": "", "patient": ""}
    return Image(**{**fields, **changes})


def test_positions_that_jitter_are_one_slice():
    """A chain of small steps is one; half a millimetre is not."""
    found = clusters(np.array([10.48, 0.0, 10.52, 20.0, 0.4, 10.5, 0.8]))
    assert [sorted(f.tolist()) for f in found] == [[1, 4, 6], [0, 2, 5], [3]]


@pytest.mark.parametrize("clock", ["trigger_ms", "temporal", "number", "clock_s"])
def test_any_clock_orders_a_slice(tmp_path, clock):
    kind = int if clock in ("temporal", "number") else float
    images = [image(tmp_path, order=k, **{clock: kind(v)}) for k, v in enumerate((3, 1, 2))]
    assert [i.order for i in in_time(images)] == [1, 2, 0]
    assert in_time([image(tmp_path, order=k) for k in range(3)]) is None


def test_one_missing_time_is_not_the_r_wave(tmp_path):
    images = [image(tmp_path, number=n, order=n, trigger_ms=None if n == 3 else 100.0 * n) for n in (1, 2, 3, 4)]
    assert [i.number for i in in_time(images)] == [1, 2, 3, 4]
    with pytest.raises(StudyError, match="nothing says the order"):
        numbered([([image(tmp_path), image(tmp_path)], 0.0)], "s")


def acquisitions(tmp_path, numbers, **common):
    """Slices of these InstanceNumbers, in order of time."""
    return numbered([([image(tmp_path, number=n, order=n, trigger_ms=50.0 * k, **common) for k, n in enumerate(row)],
                      8.0 * s) for s, row in enumerate(numbers)], "s")


@pytest.mark.parametrize(("numbers", "count", "expected"), [
    ([[1, 2, 3], [1, 2, 3]], 3, (1, 2, 3)),
    ([[1, 2, 3], [4, 5, 6]], 3, (1, 2, 3)),                  # through the stack (GE)
    ([[1, 3, 5], [2, 4, 6]], 3, (1, 2, 3)),                  # slices first (Philips)
    ([[1, 2, 3], [4, 5, 6]], None, (1, 2, 3)),
    ([[1, 2, 3], [1, 2, 3]], 30, (1, 2, 3)),                 # a count that is not met
    ([[1, 12], [1, 12]], None, (1, 12)),                     # two phases of a cycle, as the challenge names them
    ([[3, 6], [9, 12]], 6, (3, 6)),                          # the same, numbers running on
    ([[3, 6], [9, 12]], None, (1, 2)),
    ([[3, 2, 1], [3, 2, 1]], 3, (1, 2, 3)),                  # numbers against the time
])
def test_phases_are_ranks_in_time_and_numbers_are_hints(tmp_path, numbers, count, expected):
    assert {a.numbers for a in acquisitions(tmp_path, numbers, phases=count)} == {expected}


def test_a_lost_file_leaves_the_others_where_they_were(tmp_path, lines):
    whole = [image(tmp_path, number=n, order=n, trigger_ms=100.0 * n) for n in range(1, 6)]
    found = numbered([(whole, 0.0), (whole, 8.0), ([i for i in whole if i.number != 3], 16.0)], "s")
    assert found[2].numbers == (1, 2, 4, 5)
    assert found[2].phase(3) is None
    assert "none of phase 3" in lines()
    cycle = range(1, 7)
    most = Acquisition(tuple(whole), 0.0, (1, 2, 4, 5, 6))
    assert [i.number for i in most.standing_for(3, cycle)] == [2, 3]      # the images that are phases 2 and 4 here
    assert len(most.standing_for(2, cycle)) == 1
    assert not most.standing_for(3, range(1, 6))                          # too few phases to tell
    assert not Acquisition(tuple(whole[:4]), 0.0, (1, 2, 5, 6)).standing_for(3, cycle)


def test_a_lost_file_does_not_cost_its_slice(tmp_path, lines):
    """The mean of the phases before and after it takes its place, round the cycle for the first; two lost in a row
    still cost the slice."""
    write_study(tmp_path, "dsb_like", 0, "s", phases=8)
    whole = read_dicom_cine(tmp_path / "s").frames
    folders = sorted({f.parent for f in (tmp_path / "s").rglob("sax_*/*.dcm")})
    by_phase = [sorted(f.glob("*.dcm")) for f in folders]
    by_phase[1][4].unlink()
    by_phase[2][0].unlink()
    cine = read_dicom_cine(tmp_path / "s")
    assert cine.frames.shape == whole.shape
    changed = {(int(s), int(t)) for s, t in zip(*np.nonzero((cine.frames != whole).any(axis=(1, 2))), strict=True)}
    assert {t for _, t in changed} == {4, 0}
    assert len(changed) == 2
    for s, t in changed:
        np.testing.assert_allclose(cine.frames[s, ..., t], whole[s][..., [t - 1, (t + 1) % 8]].mean(-1), rtol=1e-6)
    assert "lacks phase 5: the mean of its neighbours stands for it" in lines()
    assert len(read_dicom_study(tmp_path / "s", (1, 5))) == len(whole)
    by_phase[3][6].write_bytes(by_phase[3][6].read_bytes()[:-400])         # as if it were lost
    np.testing.assert_array_equal(read_dicom_cine(tmp_path / "s").frames[:3], cine.frames[:3])
    assert read_dicom_cine(tmp_path / "s").frames.shape == whole.shape
    assert "stands for an unreadable image" in lines()
    by_phase[1][5].unlink()
    by_phase[3][7].write_bytes(by_phase[3][7].read_bytes()[:-400])
    assert len(read_dicom_cine(tmp_path / "s").frames) == len(whole) - 2


@pytest.mark.parametrize(("times", "cycle", "count", "expected"), [
    ((0.0, 300.0), 900.0, None, (1, 12)), ((300.0, 850.0), 900.0, None, (12, 1)), ((300.0, 850.0), None, None, (1, 12)),
    ((300.0, 800.0), None, 20, (12, 1)),                     # 500 ms for 11 phases: 909 ms for 20
])
def test_of_two_phases_ed_is_the_one_next_to_the_r_wave(tmp_path, times, cycle, count, expected):
    images = tuple(image(tmp_path, trigger_ms=t, cycle_ms=cycle, phases=count) for t in times)
    assert nearer_the_r_wave([Acquisition(images, 0.0, (1, 12))]) == expected


def test_patients_with_one_uid_stay_apart(tmp_path, lines):
    uid = generate_uid()
    for name in "ABC":
        write_study(tmp_path / "in", "ukb_like", ord(name) % 3, name, phases=3, other_views=False)
        flat = tmp_path / "flat" / name
        flat.mkdir(parents=True)
        for k, file in enumerate(sorted((tmp_path / "in" / name).rglob("*.dcm"))):
            header = pydicom.dcmread(file)
            header.StudyInstanceUID, header.PatientID = uid, name
            header.save_as(flat / f"{k}")
    assert find_studies(tmp_path / "flat") == [tmp_path / "flat" / name for name in "ABC"]
    with pytest.raises(StudyError, match=r"images of 3 patients"):
        read_study(shutil.copytree(tmp_path / "flat", tmp_path / "mixed" / "all") and tmp_path / "mixed")
    shutil.copytree(tmp_path / "flat" / "B", tmp_path / "flat" / "B again")
    assert len(find_studies(tmp_path / "flat")) == 4
    assert "holds the same exam as" in lines()


def test_labels_beside_an_image_are_no_study(tmp_path, lines):
    for name in ("p1.nii.gz", "p1_gt.nii.gz", "p2_seg.nii.gz"):
        nib.save(nib.Nifti1Image(np.ones((4, 4, 7, 3), np.float32), np.diag([2, 2, 8, 1])), tmp_path / name)
    assert [p.name for p in find_studies(tmp_path)] == ["p1.nii.gz", "p2_seg.nii.gz"]      # nothing is p2
    assert "p1_gt.nii.gz left out: labels of p1.nii.gz" in lines()


@pytest.mark.parametrize("names", [("CODE_sa_ED", "CODE_sa_ES"), ("sax_ed", "sax_es"), ("ED", "ES")])
def test_pairs_have_many_names(tmp_path, names):
    folder = tmp_path / "CODE"
    folder.mkdir()
    for k, name in enumerate(names):
        nib.save(nib.Nifti1Image(np.full((4, 4, 7), k, np.float32), np.diag([2, 2, 8, 1])), folder / f"{name}.nii.gz")
    study = read_study(folder)
    np.testing.assert_array_equal(study.frames[0, 0, 0], [0, 1])
    assert find_studies(tmp_path) == [folder]


@pytest.mark.parametrize(("pixdim", "affine", "unit", "expected"), [
    ((2, 2, 8), (2, 2, 8), "mm", (8.0, 2.0)), ((1, 1, 1), (2, 2, 8), "mm", (8.0, 2.0)),
    ((2, 2, 8), (1, 1, 1), "mm", (8.0, 2.0)), ((2, 2, 8), (3, 3, 8), "mm", None),
    ((0.002, 0.002, 0.008), (0.002, 0.002, 0.008), "meter", (8.0, 2.0)),
    ((2000, 2000, 8000), (2000, 2000, 8000), "micron", (8.0, 2.0)),
])
def test_the_spacing_of_a_nifti_is_never_guessed(tmp_path, lines, pixdim, affine, unit, expected):
    made = nib.Nifti1Image(np.ones((4, 4, 7, 3), np.float32), None)
    made.set_sform(np.diag([*affine, 1]), code=2)
    made.header.set_xyzt_units(unit, "sec")
    made.header["pixdim"][1:4] = pixdim
    nib.save(made, tmp_path / "a.nii.gz")
    if expected is None:
        with pytest.raises(StudyError, match="pixdim says 2 × 2 × 8 mm, the affine 3 × 3 × 8 mm"):
            read_study(tmp_path / "a.nii.gz")
        return
    study = read_study(tmp_path / "a.nii.gz", (1, 2))
    assert (study.slice_spacing_mm, study.pixel_spacing_mm[0]) == pytest.approx(expected)
    assert ("is used" in lines()) == (pixdim != affine)
    assert read_cine(tmp_path / "a.nii.gz").slice_spacing_mm == pytest.approx(expected[0])


def test_a_multi_frame_file_without_geometry_is_refused_by_that_name(tmp_path):
    write_study(tmp_path, "ukb_like", 0, "s", phases=2, other_views=False)
    file = next(tmp_path.rglob("*.dcm"))
    header = pydicom.dcmread(file)
    header.NumberOfFrames = 2
    header.PixelData = header.PixelData * 2
    header.save_as(file)
    with pytest.raises(ValueError, match="2 frames in one file"):
        read_header(file)


def test_a_text_that_begins_like_a_group_is_no_dicom(tmp_path):
    """A backspace and a null are no header yet."""
    for name, content in (("a", b"\x08\x00hello" + b"x" * 200), ("b", b"\x08\x00\x16\x00\xff\xff\xff\x7f" + b"x" * 200),
                          ("c", b"\x08\x00")):
        (tmp_path / name).write_bytes(content)
        assert not is_dicom(tmp_path / name)
    bare = pydicom.Dataset()
    bare.SOPClassUID, bare.SOPInstanceUID, bare.PatientID = "1.2.840.10008.5.1.4.1.1.4", generate_uid(), "x" * 60
    pydicom.dcmwrite(tmp_path / "d", bare, implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert is_dicom(tmp_path / "d")


def test_an_object_of_many_frames_is_opened_once(shared, monkeypatch):
    """And not once a frame: they come with hundreds of frames and megabytes."""
    path, = find_studies(shared / "faults" / "enhanced_mr")
    opened = []
    monkeypatch.setattr(dicom_header, "dcmread", lambda file, **options: opened.append(options) or dcmread(
        file, **options))
    dicom_header.of_many_frames.cache_clear()
    assert read_cine(path).frames.shape[-1] == 6
    assert opened.count({}) == 1


@pytest.mark.shared
def test_a_ge_study_is_read_the_same_whatever_an_archive_did_to_it(shared, tmp_path):
    """CardiacNumberOfImages removed or wrong; files shuffled and renamed without a suffix; one of them lost."""
    source = shared / "cine" / "ge" / "SCD0000401"
    whole = read_dicom_cine(source)
    files = sorted(source.iterdir())
    shuffled = np.random.default_rng(0).permutation(len(files))

    def variant(name, edit=None, keep=lambda number: True):
        (tmp_path / name).mkdir()
        for number, file in zip(shuffled, files, strict=True):
            if keep(number):
                header = pydicom.dcmread(file)
                if edit:
                    edit(header)
                header.save_as(tmp_path / name / f"{number:04d}")
        return read_dicom_cine(tmp_path / name)

    def without_count(header):
        header.pop("CardiacNumberOfImages", None)

    def wrong_count(header):
        header.CardiacNumberOfImages = 30

    for name, edit in (("renamed", None), ("without_count", without_count), ("wrong_count", wrong_count)):
        found = variant(name, edit)
        assert found.frames.shape == whole.frames.shape, name
        np.testing.assert_array_equal(found.frames, whole.frames, err_msg=name)
    found = variant("lost", keep=lambda number: number != 57)
    same = (found.frames == whole.frames).all(axis=(1, 2))
    assert found.frames.shape == whole.frames.shape
    assert (~same).sum() == 1                               # the mean of its neighbours in time
