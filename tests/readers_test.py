import logging

import nibabel as nib
import numpy as np
import pytest

from cardiojax import phantom
from cardiojax.errors import StudyError
from cardiojax.phantom.dicom import FAULTS, write_study
from cardiojax.readers import find_studies, geometry, read_acdc, read_dicom_study, read_study


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("cardiojax"), "propagate", True)
    caplog.set_level(logging.INFO, "cardiojax")
    return lambda: "\n".join(r.message for r in caplog.records)


def written(tmp_path, *faults, index=2):
    ed, es, volumes = write_study(tmp_path, "ukb_like", index, "s", phases=12, faults=faults)
    return read_dicom_study(tmp_path / "s", frames=(ed, es)), volumes


def test_dicom_gives_back_the_phantom(tmp_path):
    """Oblique slices with 2ch and 4ch series beside: pixels, order and spacing are those of the phantom."""
    read, _ = written(tmp_path)
    made = phantom.study("ukb_like", 2)
    assert read.frames.shape == made.frames.shape
    assert read.slice_spacing_mm == pytest.approx(made.slice_spacing_mm, abs=1e-3)
    np.testing.assert_allclose(read.frames[..., 0], np.clip(made.frames[..., 0], 0, 4095), atol=1)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_and_survived(tmp_path, lines, fault):
    healthy = len(phantom.study("ukb_like", 2))
    read, _ = written(tmp_path, fault)
    says, slices = {
        "duplicate": ("same position", healthy), "all_twice": ("same position", healthy),
        "non_parallel": ("not parallel", healthy), "mixed_size": ("resampled to their grid", healthy),
        "mixed_spacing": ("resampled to their grid", healthy), "rotated": ("resampled to their grid", healthy),
        "first_rotated": ("resampled to their grid", healthy),
        "one_series": ("base to apex", healthy), "trials": ("last trial is kept", healthy),
        "missing_frames": ("no ES", healthy - 1), "slice_location": ("SliceLocation steps differ", healthy),
        "truncated": ("dropped", healthy - 1), "text_file": ("not DICOM", healthy),
        "nan": ("NaN", healthy - 1),
    }[fault]
    assert says in lines()
    assert len(read) == slices


def test_a_rotated_slice_is_turned_back(tmp_path):
    healthy, _ = written(tmp_path / "a")
    rotated, _ = written(tmp_path / "b", "rotated")
    np.testing.assert_allclose(rotated.frames, healthy.frames, atol=1e-2)


@pytest.mark.parametrize("read_first", [True, False])
def test_a_rotated_first_slice_does_not_turn_the_stack(tmp_path, read_first):
    """Its normal is opposite to the others'. `sax_5` is acquired first but read after `sax_10`, `sax_005` before."""
    stacks = []
    for faults in ((), ("first_rotated",)):
        study = tmp_path / str(len(faults)) / "s"
        write_study(study.parent, "ukb_like", 2, "s", phases=2, faults=faults, other_views=False)
        for series in list((study / "study").iterdir()) if read_first else ():
            series.rename(series.with_name(f"sax_{int(series.name[4:]):03d}"))
        stacks.append(read_dicom_study(study, frames=(1, 2)).frames)
    np.testing.assert_allclose(*stacks, atol=1e-2)


def test_a_study_knows_where_its_slices_lie(tmp_path):
    """Of eleven slices 10 mm apart the fifth is unreadable: runs of four and six are left."""
    made = phantom.study("ukb_like", 2)
    write_study(tmp_path, "ukb_like", 2, "s", phases=2, other_views=False)
    whole = read_dicom_study(tmp_path / "s", frames=(1, 2))
    np.testing.assert_allclose(np.diff(whole.positions_mm), made.slice_spacing_mm, atol=1e-3)
    assert whole.consecutive_slices == len(made) == 11
    fifth = sorted((tmp_path / "s" / "study").iterdir(), key=lambda p: int(p.name[4:]))[4]
    for file in fifth.iterdir():
        file.write_bytes(file.read_bytes()[:200])
    assert read_dicom_study(tmp_path / "s", frames=(1, 2)).consecutive_slices == 6


def test_reversed_acquisition_still_runs_base_to_apex(tmp_path):
    """The orientation decides: the order of the series does not matter."""
    write_study(tmp_path, "ukb_like", 2, "s", phases=3, other_views=False)
    folders = sorted((tmp_path / "s" / "study").iterdir())
    first = read_dicom_study(tmp_path / "s", frames=(1, 2)).frames
    for n, folder in enumerate(reversed(folders)):
        folder.rename(folder.with_name(f"sax_{100 + n}"))
    np.testing.assert_array_equal(read_dicom_study(tmp_path / "s", frames=(1, 2)).frames, first)


def test_es_is_found_in_a_cine(tmp_path):
    _, es, _ = write_study(tmp_path, "dsb_like", 2, "s", phases=20)
    found = read_dicom_study(tmp_path / "s").frames[..., 1]
    near = [read_dicom_study(tmp_path / "s", frames=(1, n)).frames[..., 1] for n in (es - 1, es, es + 1)]
    assert any(np.array_equal(found, frames) for frames in near)


@pytest.mark.parametrize(("direction", "acquired", "sign"), [
    ([0.6, -0.55, -0.57], -1.0, 1), ([-0.6, 0.55, 0.57], 1.0, -1), ([0, 0, 1], 1.0, 1), ([0, 0, 1], -1.0, -1)])
def test_order_by_orientation_else_by_acquisition(direction, acquired, sign):
    assert geometry.towards_apex(np.array(direction), "s", acquired) == sign


def test_masks_meet_slices_by_position_not_order(tmp_path, lines):
    """A mask volume with its planes reversed, one plane too few and one off the stack."""
    planes = [geometry.Plane(np.array([-10.0, -20, 8 * k]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (2.0, 1.0),
                             (12, 14)) for k in range(4)]
    truth = np.random.default_rng(0).integers(0, 4, (4, 12, 14)).astype(np.uint8)
    volume = np.zeros((14, 12, 4), np.uint8)
    for at, k in enumerate((3, 2, 1)):                 # reversed; slice 0 has no plane
        volume[:, :, at] = truth[k].T
    volume[:, :, 3] = 1
    affine = np.array([[-1.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, -8, 25], [0, 0, 0, 1]])     # RAS, 1 mm off in z
    found = geometry.masks_onto(planes, nib.Nifti1Image(volume[:, :, :3], affine), "s", "ED")
    np.testing.assert_array_equal(found[1:], truth[1:])
    assert not found[0].any()
    assert "ED slice 1 at 0.0 mm has no mask plane" in lines()
    shifted = affine.copy()
    shifted[2, 3] = 100.0
    assert not geometry.masks_onto(planes, nib.Nifti1Image(volume, shifted), "s", "ED").any()
    assert "mask plane 1 at 100.0 mm has no slice" in lines()


def test_acdc_takes_the_spacing_from_pixdim(tmp_path, acdc_patient):
    study = read_acdc(acdc_patient(tmp_path / "patient001"))
    np.testing.assert_allclose(study.volumes_from_masks_ml(),
                               [64 * 2.25 * 60 / 1000, 25 * 2.25 * 60 / 1000])
    assert study.frames.shape == (6, 24, 20, 2)


@pytest.mark.parametrize(("kwargs", "says"), [
    ({"label": 9}, "unknown labels"), ({"info": "Group: NOR\n"}, "does not name the ED and ES"),
    ({"info": "ED: 1\nES: 7\n"}, "patient001_frame07.nii.gz is missing")])
def test_acdc_faults_in_one_line(tmp_path, acdc_patient, kwargs, says):
    with pytest.raises(StudyError, match=says):
        read_acdc(acdc_patient(tmp_path / "patient001", **kwargs))


def test_truncated_nifti_in_one_line(tmp_path, acdc_patient):
    folder = acdc_patient(tmp_path / "patient001", shape=(60, 60, 9))
    file = folder / "patient001_frame01.nii.gz"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(StudyError, match=r"patient001_frame01.nii.gz"):
        read_acdc(folder)


def test_a_tree_is_searched(tmp_path, acdc_patient):
    acdc_patient(tmp_path / "a" / "patient001")
    write_study(tmp_path / "b" / "deep", "ukb_like", 0, "7", phases=2, other_views=False)
    assert [p.name for p in find_studies(tmp_path)] == ["patient001", "7"]
    assert find_studies(tmp_path / "a" / "patient001") == [tmp_path / "a" / "patient001"]


@pytest.mark.parametrize(("make", "says"), [
    (lambda p: p.mkdir(), "no DICOM files"),
    (lambda p: (p.mkdir(), (p / "x.dcm").write_text("hello")), "none of 1 files"),
    (lambda p: None, "does not exist")])
def test_nothing_to_read(tmp_path, make, says):
    make(tmp_path / "s")
    with pytest.raises(StudyError, match=says):
        read_study(tmp_path / "s")


def test_nifti_masks_on_another_grid_are_matched_by_position(tmp_path, acdc_patient):
    """The mask's planes reversed, with an affine that says so: the same labels as in the image's own order."""
    folder = acdc_patient(tmp_path / "patient001")
    affine = np.diag([-1.5, -1.5, 10.0, 1])
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (20, 24, 6)).astype(np.uint8)
    flipped = affine.copy()
    flipped[2, 2], flipped[2, 3] = -10.0, 50.0
    for frame in (1, 2):
        image = np.asarray(nib.load(folder / f"patient001_frame{frame:02d}.nii.gz").dataobj)
        nib.save(nib.Nifti1Image(image, affine), folder / f"patient001_frame{frame:02d}.nii.gz")
        nib.save(nib.Nifti1Image(truth[:, :, ::-1], flipped), folder / f"patient001_frame{frame:02d}_gt.nii.gz")
    labels = read_acdc(folder).masks[..., 0]
    ours = np.array([0, 3, 2, 1])[truth].transpose(2, 1, 0)
    assert np.array_equal(labels, ours) or np.array_equal(labels, ours[::-1])
