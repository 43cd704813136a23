"""What goes out beside the table: masks that overlay on their input, DICOM SEG and SR, pages."""

import dataclasses
import re
import shutil
import tarfile
import zipfile
from html.parser import HTMLParser

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from cardiojax import readers
from cardiojax.errors import StudyError
from cardiojax.grid import Grid
from cardiojax.models.curve import Curve
from cardiojax.models.prediction import Prediction
from cardiojax.phantom.dicom import write_study
from cardiojax.preparation import prepare
from cardiojax.readers import read_cine, read_study
from cardiojax.readers.archive import unpacked
from cardiojax.units import LV, MYOCARDIUM, RV
from cardiojax.writers.dicom import SEEN, write_objects
from cardiojax.writers.nifti import write_masks
from cardiojax.writers.page import Said, write_index, write_page


def measured(study, at=(70, 80), side=20):
    """A prediction of a prepared study that saw a square LV in its wall, at ED 2 mm larger than at ES."""
    masks = np.zeros_like(study.frames)
    for phase, half in ((0, side // 2 + 1), (1, side // 2 - 1)):
        for label, wall in ((MYOCARDIUM, 6), (LV, 0)):
            masks[:, at[0] - half - wall:at[0] + half + wall, at[1] - half - wall:at[1] + half + wall, phase] = label
    return Prediction(study.study_id, 120.0, 60.0, 50.0, 5.0, 4.0, 3.0, rv_edv_ml=100.0, rv_esv_ml=50.0, lv_mass_g=90.0,
                      model="run", study=study.replace(masks=masks))


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom")
    ed, es, _ = write_study(folder, "dsb_like", 1, "s", phases=6)
    return folder / "s", (ed, es)


def centroid_mm(labels, affine):
    return affine[:3, :3] @ np.argwhere(labels == LV).mean(0) + affine[:3, 3]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 10.0), (0.8, 1.2, 8.0)])
def test_masks_are_on_the_pixels_of_the_file(tmp_path, spacing, backwards):
    """Of a rotated NIfTI cine whose heart is off the centre: same shape, affine and header, and the labels lie on the
    bright square they were seen in, within a pixel of 1 mm; slices stored apex first too."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1 if not backwards else -1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing, (-60, 30, 12)
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 50, (160, 140, 7, 5)).astype(np.float32)
    x0, y0 = 90, 50
    for t in range(5):
        image[x0:x0 + round(30 / spacing[0]), y0:y0 + round((30 - 3 * t) / spacing[1]), :, t] += 200
    file = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(image, affine), file)
    whole = read_cine(file)
    study = prepare(whole.study(1, 5))
    square = (study.frames[..., 0] > 140)[..., None].astype(np.uint8) * LV
    curve = Curve(*[np.ones(5)] * 3, labels=np.repeat(square, 5, -1), grid=study.grid)
    p = dataclasses.replace(measured(study), study=study.replace(masks=np.repeat(square, 2, -1)), curve=curve)
    files = write_masks(p, tmp_path / "masks", every_phase=True)
    assert [f.name for f in files] == ["case_ED.nii.gz", "case_ES.nii.gz", "case_cine.nii.gz"]
    ed, cine = nib.load(files[0]), nib.load(files[2])
    source = nib.load(file)
    for mask in (ed, cine):
        np.testing.assert_allclose(mask.affine, source.affine)
        assert mask.header.get_zooms()[:3] == source.header.get_zooms()[:3]
    assert ed.shape == source.shape[:3]
    assert cine.shape == source.shape
    bright = np.zeros(source.shape[:3])
    bright[image[..., 0] > 150] = LV
    found = np.asarray(ed.dataobj)
    np.testing.assert_allclose(centroid_mm(found, ed.affine), centroid_mm(bright, affine), atol=0.6)
    assert (found == bright).mean() > 0.99
    np.testing.assert_array_equal(np.asarray(cine.dataobj)[..., 0], found)


def test_an_affine_without_spacing_stays_as_it_is(acdc_patient, tmp_path):
    folder = acdc_patient(tmp_path / "patient001", shape=(120, 130, 6))
    files = write_masks(measured(prepare(read_study(folder))), tmp_path / "masks")
    mask, source = nib.load(files[0]), nib.load(folder / "patient001_frame01.nii.gz")
    np.testing.assert_array_equal(mask.affine, source.affine)
    assert mask.header.get_zooms() == source.header.get_zooms()
    assert mask.shape == source.shape
    area_mm2 = (np.asarray(mask.dataobj)[..., 0] == LV).sum() * 1.5 * 1.5
    assert area_mm2 == pytest.approx(22 * 22, rel=0.1)


def test_masks_of_dicom_lie_where_its_slices_do(dicom, tmp_path):
    """Every voxel of a slice is in that slice's plane, at its pixels; a gap in the stack is an empty slice."""
    folder, phases = dicom
    study = prepare(read_study(folder, phases))
    p = measured(study)
    mask = nib.load(write_masks(p, tmp_path)[0])
    labels = np.asarray(mask.dataobj)
    lps = np.diag([-1.0, -1, 1, 1]) @ mask.affine
    for s, row in enumerate(study.grid.sources):
        header = pydicom.dcmread(row[0].file)
        axes, (row_mm, column_mm) = np.array(header.ImageOrientationPatient, float), header.PixelSpacing
        for r, c in ((0, 0), (10, 50), (header.Rows - 1, header.Columns - 1)):
            point = np.array(header.ImagePositionPatient, float) + c * column_mm * axes[:3] + r * row_mm * axes[3:]
            np.testing.assert_allclose((lps @ [c, r, study.grid.at[s], 1])[:3], point, atol=0.05)
    assert labels.shape[2] == len(study)

    without = tmp_path / "gap"
    shutil.copytree(folder, without)
    third = study.grid.sources[2][0].file.parent.name
    shutil.rmtree(next(without.rglob(third)))
    gapped = prepare(read_study(without, phases))
    assert len(gapped) == len(study) - 1
    mask = nib.load(write_masks(measured(gapped), tmp_path / "masks")[0])
    assert mask.shape[2] == len(study)
    assert not np.asarray(mask.dataobj)[:, :, 2].any()
    np.testing.assert_allclose(mask.affine[:3, 2], nib.load(tmp_path / "s_ED.nii.gz").affine[:3, 2], atol=0.02)


def test_labels_between_pixels_go_to_the_larger_share():
    """By hand: 2 × 2 labels at 1 mm on pixels of 0.5 mm: a quarter of a millimetre round each is its own."""
    grid = Grid(np.eye(4), (1, 4, 4), (0,), (0.5, 0.5))
    labels = np.array([[[LV, MYOCARDIUM], [RV, 0]]], np.uint8)
    np.testing.assert_array_equal(grid.labels_as_read(labels)[0, 1:3, 1:3], labels[0])
    wide = Grid(np.eye(4), (1, 10, 10), (0,), (1.0, 1.0), centre_mm=(2.0, -3.0))
    restored = wide.labels_as_read(labels)
    assert restored.shape == (1, 10, 10)
    np.testing.assert_array_equal(restored[0, 6:8, 1:3], labels[0])
    assert restored.sum() == labels.sum()


def test_a_segmentation_and_a_report_open_again(dicom, tmp_path):
    folder, phases = dicom
    study = prepare(read_study(folder, phases))
    p = measured(study)
    report, *segmentations = write_objects(p, tmp_path)
    sources = [pydicom.dcmread(row[0].file) for row in study.grid.sources]
    seg = hd.seg.segread(segmentations[0])
    assert seg.StudyInstanceUID == sources[0].StudyInstanceUID
    labels = study.grid.labels_as_read(p.study.masks[..., 0])
    pixels = seg.get_pixels_by_source_instance([s.SOPInstanceUID for s in sources], combine_segments=True)
    np.testing.assert_array_equal(pixels, labels)
    assert {d.SegmentedPropertyTypeCodeSequence[0].CodeValue for d in seg.SegmentSequence} == {
        code.value for code in SEEN.values()}
    assert seg.SOPInstanceUID != hd.seg.segread(segmentations[1]).SOPInstanceUID

    sr = hd.sr.srread(report)
    group, = sr.content.get_image_measurement_groups()
    values = {m.name.value: (m.value, m.unit.value) for m in group.get_measurements()}
    assert values == {"18026-5": (120.0, "ml"), "18148-7": (60.0, "ml"), "90096001": (60.0, "ml"),
                      "8811-2": (50.0, "%"), "18087-7": (90.0, "g"), "8818-7": (50.0, "%")}
    evidence, = sr.CurrentRequestedProcedureEvidenceSequence
    assert {item.ReferencedSOPInstanceUID for series in evidence.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence} == {
        pydicom.dcmread(image.file).SOPInstanceUID for row in study.grid.sources for image in row}


@pytest.mark.parametrize("fault", ["enhanced_mr", "no_preamble", "running_numbers_no_count"])
def test_other_kinds_of_dicom_get_a_segmentation_too(shared, tmp_path, fault):
    path, = readers.find_studies(shared / "faults" / fault)
    study = prepare(read_study(path))
    p = measured(study)
    seg = hd.seg.segread(write_objects(p, tmp_path)[1])
    positions = {tuple(np.round(np.array(f.PlanePositionSequence[0].ImagePositionPatient, float), 2))
                 for f in seg.PerFrameFunctionalGroupsSequence}
    assert len(positions) == len(study)
    assert all(f.DerivationImageSequence for f in seg.PerFrameFunctionalGroupsSequence)


def test_what_is_no_dicom_is_refused_in_a_line(acdc_patient, dicom, tmp_path):
    with pytest.raises(StudyError, match="patient001: DICOM SEG and SR need"):
        write_objects(measured(prepare(read_study(acdc_patient(tmp_path / "patient001", (120, 130, 6))))), tmp_path)
    folder, phases = dicom
    shutil.copytree(folder, tmp_path / "gone")
    study = prepare(read_study(tmp_path / "gone", phases))
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(StudyError, match=r"study gone: no DICOM SEG and SR .*No such file"):
        write_objects(measured(study), tmp_path)


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src")]


def test_a_page_says_everything_and_needs_nothing(dicom, tmp_path):
    """Numbers, contours of every slice, the curve; what the log says of this study alone; names are escaped."""
    folder, phases = dicom
    said = Said()
    study = prepare(read_study(folder, phases))
    p = dataclasses.replace(
        measured(study.replace(study_id="a<b>")), refer=True, reasons="few slices; <script>", ed_frame=1, es_frame=3,
        curve=Curve(*[np.linspace(120, 60, 6)] * 3, phase_ms=50.0 * np.arange(6)))
    import logging
    for text, name in (("gap of 20 mm", "a<b>"), ("of another", "other")):
        said.emit(logging.LogRecord("cardiojax", logging.WARNING, "", 0, "study %s: %s", (name, text), None))
    text = write_page(p, tmp_path, said.of("a<b>")).read_text()
    for expected in ("120 ± 5 ml", "50.0 ± 3.0 %", "few slices", "&lt;script&gt;", "a&lt;b&gt;", "gap of 20 mm"):
        assert expected in text
    assert "of another" not in text
    assert text.count("<svg") == 2 * len(study)
    assert text.count('<path class="LV"') == 2 * len(study)
    assert "http" not in re.sub(r"data:image[^\"]*", "", text)
    assert all(link.startswith("data:") or link == "index.html" for link in Links(text).found)


def test_the_index_puts_first_what_needs_a_look(dicom, tmp_path):
    folder, phases = dicom
    p = measured(prepare(read_study(folder, phases)))
    rows = [dataclasses.replace(p, study_id=name, ef_std_percent=std, refer=refer).row()
            for name, std, refer in (("calm", 2.0, False), ("unsure", 9.0, False), ("look at me", 3.0, True))]
    write_page(dataclasses.replace(p, study_id="look at me"), tmp_path)
    text = write_index(rows, ["study lost: broken"], tmp_path).read_text()
    assert [text.index(name) for name in ("study lost", "look at me", "unsure", "calm")] == sorted(
        text.index(name) for name in ("study lost", "look at me", "unsure", "calm"))
    assert Links(text).found == ["look%20at%20me.html"]
    assert "3 measured, 1 of them to be looked at; 1 not measured" in text


def test_archives_are_read_as_folders_are(dicom, tmp_path):
    folder, phases = dicom
    truth = read_study(folder, phases)
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as archive:
        archive.add(folder, "s")
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in folder.rglob("*.dcm"):
            archive.write(file, file.relative_to(folder.parent))
    for name in ("s.tar.gz", "s.zip"):
        study = read_study(tmp_path / name, phases)
        assert study.study_id == "s"
        np.testing.assert_array_equal(study.frames, truth.frames)


def test_an_archive_stays_in_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("../out.txt", "x")
        archive.writestr("in.txt", "x")
    with unpacked(tmp_path / "up.zip") as folder:
        assert {f.name for f in folder.rglob("*")} == {"in.txt", "out.txt"}
        assert not (folder.parent / "out.txt").exists()
    with tarfile.open(tmp_path / "up.tar", "w") as archive:
        archive.add(tmp_path / "up.zip", "../out.zip")
    with pytest.raises(StudyError, match=r"study up: up\.tar is unreadable"), unpacked(tmp_path / "up.tar"):
        pass
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with unpacked(tmp_path / "link.tar") as folder:
        assert not list(folder.iterdir())


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 10**7)
    monkeypatch.setattr("cardiojax.readers.archive.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(
        10**10, 10**10 - 2**30 - 10**6, 2**30 + 10**6))
    bomb = tmp_path / "bomb.zip"
    with pytest.raises(StudyError, match=r"bomb\.zip holds 1 files of 0\.0 GiB, too much"), unpacked(bomb):
        pass
