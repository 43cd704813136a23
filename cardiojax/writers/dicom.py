"""Masks → DICOM SEG, numbers → DICOM SR (TID 1500), beside the study that they were read from; by highdicom."""

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import pydicom

from cardiojax import __version__
from cardiojax.errors import InputError, StudyError, one_line
from cardiojax.files import write_bytes
from cardiojax.grid import Grid
from cardiojax.models.masks import cleaned
from cardiojax.models.prediction import Prediction
from cardiojax.readers.dicom_header import dcmread, read_header
from cardiojax.readers.geometry import Plane
from cardiojax.study import ED, ES, Study
from cardiojax.units import LABELS

try:
    import highdicom as hd
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes
    from pydicom.valuerep import DA, DT, TM
except ImportError:
    raise InputError("DICOM SEG and SR need `pip install 'cardiojax[dicom]'`") from None

MAKER = {"manufacturer": "cardiojax", "manufacturer_model_name": "cardiojax", "software_versions": __version__,
         "device_serial_number": "0"}
PARSED = {"DA": DA, "TM": TM, "DT": DT}
COPIED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
          "AccessionNumber", "ReferringPhysicianName")
SERIES = {"SEG": 9100, "SR": 9101}         # numbers, beyond those that scanners give
LEFT = CodedConcept("87878005", "SCT", "Left cardiac ventricle")
RIGHT = CodedConcept("53085002", "SCT", "Right cardiac ventricle")
SEEN = {1: LEFT, 2: CodedConcept("49848007", "SCT", "Myocardium of left ventricle"), 3: RIGHT}    # by label
# column, its code, its unit, where
MEASURED = (
    ("edv_ml", CodedConcept("18026-5", "LN", "Left Ventricular End Diastolic Volume"), ("ml", "ml"), LEFT),
    ("esv_ml", CodedConcept("18148-7", "LN", "Left Ventricular End Systolic Volume"), ("ml", "ml"), LEFT),
    ("sv_ml", CodedConcept("90096001", "SCT", "Stroke Volume"), ("ml", "ml"), LEFT),
    ("ef_percent", CodedConcept("8811-2", "LN", "Left Ventricular Ejection Fraction by MR"), ("%", "percent"), LEFT),
    ("lv_mass_g", CodedConcept("18087-7", "LN", "Left Ventricle Mass"), ("g", "g"), LEFT),
    ("heart_rate_bpm", CodedConcept("8867-4", "LN", "Heart rate"), ("{H.B.}/min", "beats per minute"), None),
    ("cardiac_output_l_per_min", CodedConcept("82799009", "SCT", "Cardiac Output"), ("l/min", "liters per minute"),
     LEFT),
    ("rv_ef_percent", CodedConcept("8818-7", "LN", "Right Ventricular Ejection Fraction by MR"), ("%", "percent"),
     RIGHT))


def write_objects(prediction: Prediction, folder: Path) -> list[Path]:
    """STUDY_ED.seg.dcm, STUDY_ES.seg.dcm (of a model that sees masks) and STUDY.sr.dcm; the files.

    They belong to the study of the source images, refer to them, and are series of their own; UIDs are new with every
    call. Raises StudyError with one line where the study was no DICOM, its files are gone or lack what must be said.
    """
    study = prediction.study
    if study is None or study.grid is None or not study.grid.sources:
        raise StudyError(f"study {prediction.study_id}: DICOM SEG and SR need a study that was read from DICOM")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        headers = {file: header_of(file) for file in {image.file for row in study.grid.sources for image in row}}
        sources = [[headers[row[phase].file] for row in study.grid.sources] for phase in range(2)]
        agreed([*sources[ED], *sources[ES]])
        objects = {f"{study.study_id}.sr.dcm": report(prediction, sources)}
        if study.masks is not None:
            series = hd.UID()
            for phase, name in enumerate(("ED", "ES")):
                objects[f"{study.study_id}_{name}.seg.dcm"] = segmentation(study, phase, sources[phase], series)
        for name, dataset in objects.items():
            content = io.BytesIO()
            dataset.save_as(content, enforce_file_format=True)
            write_bytes(folder / name, content.getvalue())
    except (OSError, AttributeError, KeyError, ValueError, TypeError) as error:
        raise StudyError(f"study {prediction.study_id}: no DICOM SEG and SR ({one_line(error)})") from None
    return [folder / name for name in objects]


def header_of(file: Path) -> pydicom.Dataset:
    """What is copied from it: empty where it is missing, or a date or time that is none (00000101, of anonymisers)."""
    header = dcmread(file, stop_before_pixels=True)
    for element in [e for e in header if e.VR in PARSED]:
        try:
            PARSED[element.VR](str(element.value))
        except ValueError:
            header[element.tag].value = None
    for tag in COPIED:
        if tag not in header:
            setattr(header, tag, None)
    if frames := header.get("PerFrameFunctionalGroupsSequence"):        # highdicom looks for these in what is shared
        shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
        for macro in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            if macro not in shared and macro in frames[0]:
                setattr(shared, macro, frames[0].get(macro))
        header.SharedFunctionalGroupsSequence = [shared]
    return header


def agreed(headers: list[pydicom.Dataset]):
    """One frame of reference and one orientation, as the images were read: some anonymisers give each a frame of its
    own, and scanners' orientations differ in the last digits."""
    first = headers[0]
    space, axes = first.get("FrameOfReferenceUID") or hd.UID(), first.get("ImageOrientationPatient")
    for header in headers:
        header.FrameOfReferenceUID = space
        if axes is not None and np.allclose(header.ImageOrientationPatient, axes, atol=1e-2):
            header.ImageOrientationPatient = axes


def segmentation(study: Study, phase: int, sources: list[pydicom.Dataset], series_uid: str) -> hd.seg.Segmentation:
    """The cleaned masks of ED (0) or ES (1): a frame for every slice and label that was seen."""
    grid = study.grid
    assert grid is not None
    assert study.masks is not None
    labels = grid.labels_as_read(cleaned(study.masks)[..., phase])
    column, row = (grid.lps[:3, i] / np.linalg.norm(grid.lps[:3, i]) for i in (0, 1))
    planes = {file: [image.plane for image in read_header(file)] for file in {row[phase].file for row in grid.sources}}
    images = one_of_each(sources)
    fitting = [copy.deepcopy(i) for i in images if said_of_grid(i) == said_of_grid(images[0])]
    for image in fitting:                               # highdicom wants one series; many scanners give each slice one
        image.SeriesInstanceUID = images[0].SeriesInstanceUID
    with warnings.catch_warnings():                     # of values in the sources that break the standard
        warnings.simplefilter("ignore")
        found = hd.seg.Segmentation(
            fitting, labels, hd.seg.SegmentationTypeValues.BINARY,
            [segment(label) for label in range(1, len(LABELS))], series_instance_uid=series_uid,
            series_number=SERIES["SEG"], sop_instance_uid=hd.UID(), instance_number=1 + phase, **MAKER,
            content_label=("ED", "ES")[phase], content_description=f"contours at {('ED', 'ES')[phase]}",
            series_description="cardiojax contours",
            pixel_measures=hd.PixelMeasuresSequence(grid.spacing_mm, study.slice_spacing_mm),
            plane_orientation=hd.PlaneOrientationSequence("PATIENT", [*column, *row]),
            plane_positions=[hd.PlanePositionSequence(
                "PATIENT", origin_mm(grid, s, planes[row[phase].file][row[phase].frame or 0]))
                for s, row in enumerate(grid.sources)])
    found.ReferencedSeriesSequence = referenced(images)
    return found


def said_of_grid(image: pydicom.Dataset) -> tuple:
    return image.Rows, image.Columns, str(image.get("ImageOrientationPatient"))


def referenced(images: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """The ReferencedSeriesSequence of images."""
    series: dict[str, pydicom.Dataset] = {}
    for image in images:
        uid = image.SeriesInstanceUID
        if uid not in series:
            series[uid] = pydicom.Dataset()
            series[uid].SeriesInstanceUID, series[uid].ReferencedInstanceSequence = uid, []
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        series[uid].ReferencedInstanceSequence.append(item)
    return list(series.values())


def segment(label: int) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        label, LABELS[label], codes.SCT.AnatomicalStructure, SEEN[label], hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            "cardiojax contours", codes.DCM.ArtificialIntelligence, __version__))


def origin_mm(grid: Grid, s: int, plane: Plane) -> np.ndarray:
    """Of a slice's first pixel, as its image's `plane` says; by the stack where that was resampled to the others'."""
    axes = np.stack([plane.along_row * plane.spacing_mm[1], plane.along_col * plane.spacing_mm[0]], axis=1)
    fits = plane.shape == grid.shape[1:] and np.allclose(axes, grid.lps[:3, :2], atol=1e-3)
    return plane.origin if fits else (grid.lps @ [0, 0, grid.at[s], 1])[:3]


def one_of_each(sources: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """Each object once: of Enhanced MR all frames are in one."""
    return list({s.SOPInstanceUID: s for s in sources}.values())


def report(prediction: Prediction, sources: list[list[pydicom.Dataset]]) -> hd.sr.ComprehensiveSR:
    """The numbers as a measurement report (TID 1500), with standard deviations where there are some."""
    images = one_of_each([*sources[ED], *sources[ES]])
    observer = hd.sr.ObserverContext(codes.DCM.Device, hd.sr.DeviceObserverIdentifyingAttributes(
        hd.UID(), name="cardiojax", model_name=prediction.model or "cardiojax", manufacturer_name="cardiojax"))
    numbers = {name: getattr(prediction, name) for name, *_ in MEASURED}
    measurements = [
        hd.sr.Measurement(code, round(float(numbers[name]), 2), CodedConcept(unit[0], "UCUM", unit[1]),
                          finding_sites=None if site is None else [hd.sr.FindingSite(site)])
        for name, code, unit, site in MEASURED if numbers[name] is not None and np.isfinite(numbers[name])]
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier(hd.UID(), "LV function"), measurements=measurements,
        algorithm_id=hd.sr.AlgorithmIdentification(f"cardiojax {prediction.model}".strip(), __version__),
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(image) for image in images]
        if len(images) > 1 else None)
    content = hd.sr.MeasurementReport(hd.sr.ObservationContext(observer),
                                      CodedConcept("24748-6", "LN", "MR Heart"), [group],
                                      title=codes.DCM.ImagingMeasurementReport)
    return hd.sr.ComprehensiveSR(images, content, series_instance_uid=hd.UID(), series_number=SERIES["SR"],
                                 sop_instance_uid=hd.UID(), instance_number=1, manufacturer="cardiojax",
                                 is_complete=True, is_final=False, series_description="cardiojax measurements")
