"""What DICOM headers say of each image of a study; what cannot be read is logged and left out."""

import collections
import dataclasses
import functools
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom
import pydicom.errors
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cardiojax.errors import StudyError, one_line
from cardiojax.readers.geometry import Plane

log = logging.getLogger("cardiojax")

Number = TypeVar("Number", int, float)

CHALLENGE_NAME = re.compile(r"IM-(\d+)-(\d+)(?:-(\d+))?\.dcm$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """One image of a DICOM file: what its header says, and the file itself for its pixels."""

    path: Path
    plane: Plane
    series: int
    third: int              # third number of a challenge name: slice or trial within the series
    number: int | None      # 1-based phase, as recorded: from the name or InstanceNumber
    order: int              # InstanceNumber, or the name's number: the order of acquisition
    trigger_ms: float | None
    temporal: int | None    # TemporalPositionIdentifier
    clock_s: float | None   # AcquisitionTime or ContentTime, since midnight
    cycle_ms: float | None  # NominalInterval, between two R waves
    phases: int | None      # CardiacNumberOfImages
    thickness_mm: float | None
    slice_location: float | None
    description: str        # SeriesDescription, else ProtocolName, else the folder's name
    study_uid: str
    patient: str            # PatientID
    height_m: float | None = None
    weight_kg: float | None = None
    heart_rate_bpm: float | None = None            # HeartRate; see also cycle_ms
    frame: int | None = None                       # of an object of many frames, from 0
    rescale: tuple[float, float] = (1.0, 0.0)      # of such a frame: slope, intercept

    def pixels(self) -> np.ndarray:
        """(rows, columns) in the scanner's values. Raises ValueError and what pydicom raises where it cannot."""
        dataset = dcmread(self.path) if self.frame is None else of_many_frames(self.path, self.path.stat().st_mtime_ns)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax is not None and syntax.is_compressed and not get_decoder(syntax).is_available:
            raise ValueError(f"compressed as {syntax.name}, which needs `pip install 'cardiojax[compressed]'`")
        if self.frame is not None:
            slope, intercept = self.rescale
            pixels = pixel_array(dataset, index=self.frame).astype(np.float32) * slope + intercept
        else:
            pixels = apply_modality_lut(dataset.pixel_array, dataset).astype(np.float32)
        if pixels.ndim != 2:
            raise ValueError(f"pixels of shape {pixels.shape}, expected one grey image")
        return -pixels if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else pixels


def dcmread(file: Path, **options) -> pydicom.Dataset:
    """`pydicom.dcmread`, also of a file without preamble and file meta, as old archives hold them."""
    with warnings.catch_warnings():                     # of values that break the standard: a study brings hundreds
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(file, **options)
        except pydicom.errors.InvalidDicomError:
            if not begins_with_a_group(file):
                raise
        dataset = pydicom.dcmread(file, force=True, **options)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian)
        return dataset


@functools.lru_cache(maxsize=4)
def of_many_frames(file: Path, changed_ns: int) -> pydicom.Dataset:
    """An object of many frames, which are asked for one by one. changed_ns: when the file was."""
    return dcmread(file)


def begins_with_a_group(file: Path) -> bool:
    """Whether a file starts with a data element of group 8 or 2, little endian, in place of a preamble."""
    with file.open("rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM" or len(head) < 132:
        return False
    group, element = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    length = int.from_bytes(head[6:8] if explicit else head[4:8], "little")
    return group in (2, 8) and element < 0x100 and length <= 64


def read_headers(path: Path, study_id: str) -> list[Image]:
    """The usable images of the short-axis series below `path`; what cannot be read is logged and left out."""
    if not path.is_dir():
        raise StudyError(f"study {study_id}: {path} is not a folder")
    folders = sorted(p for p in path.rglob("sax_*") if p.is_dir()) or [path]
    files = sorted(f for folder in folders for f in folder.rglob("*") if f.is_file() and is_dicom(f))
    if not files:
        raise StudyError(f"study {study_id}: no DICOM files in {path}")
    images, why = [], collections.defaultdict(list)
    for file in files:
        try:
            images += read_header(file)
        except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
            why[file.parent, f"not DICOM ({one_line(error)})"].append(file)
        except Exception as error:                      # pydicom's parser raises many kinds
            why[file.parent, f"header unusable ({one_line(error)})"].append(file)
    for (folder, reason), dropped in why.items():       # a line a folder and reason, not a file
        log.warning("study %s: %s dropped: %s", study_id, f"file {dropped[0].name}" if len(dropped) == 1 else
                    f"{len(dropped)} files in {folder.name}, {dropped[0].name} …,", reason)
    if not images:
        first = next(reason for _, reason in why)
        raise StudyError(f"study {study_id}: none of {len(files)} files in {path} is a usable DICOM image: {first}")
    return images


def is_dicom(file: Path) -> bool:
    """By its suffix, or by the four letters that every DICOM file has: archives name files as they like."""
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR":
        return False
    if file.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM" or begins_with_a_group(file)
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class Exam:
    """What says which exam a file is of; fields are empty where it does not, and where it is no DICOM."""

    study_uid: str
    patient: tuple[str, ...]     # ID, name, birth date, and the exam's date and time
    instance_uid: str
    position: str                # ImagePositionPatient as it is written


PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "StudyDate", "StudyTime")


def exam_of(file: Path) -> Exam:
    tags = ["StudyInstanceUID", "SOPInstanceUID", "ImagePositionPatient", *PATIENT]
    try:
        header = dcmread(file, stop_before_pixels=True, specific_tags=tags)
        uid, instance, position, *patient = (str(header.get(tag) or "") for tag in tags)
    except Exception:                                   # `read_headers` says why
        return Exam("", (), "", "")
    return Exam(uid, tuple(patient), instance, position)


def read_header(file: Path) -> list[Image]:
    """The images of a file: one, or those of an Enhanced MR object. Raises what pydicom does, and ValueError."""
    header = dcmread(file, stop_before_pixels=True)
    if header.get("PerFrameFunctionalGroupsSequence") and "ImageOrientationPatient" not in header:
        return enhanced(file, header)                   # GE writes that sequence, empty, in plain images too
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{header.NumberOfFrames} frames in one file, and nothing in it says where each of them lies")
    name = CHALLENGE_NAME.search(file.name)
    instance = optional(header, "InstanceNumber", int)
    number = int(name[2]) if name else instance
    return [Image(
        path=file, plane=plane_of(header, header, header, header), series=optional(header, "SeriesNumber", int) or 0,
        third=int(name[3]) if name and name[3] else 0, number=number,
        order=instance if instance is not None else number or 0,
        trigger_ms=optional(header, "TriggerTime", float), temporal=optional(header, "TemporalPositionIdentifier", int),
        clock_s=clock_s(header), cycle_ms=optional(header, "NominalInterval", float) or None,
        phases=optional(header, "CardiacNumberOfImages", int) or None,
        thickness_mm=optional(header, "SliceThickness", float),
        slice_location=optional(header, "SliceLocation", float), **described(file, header))]


def enhanced(file: Path, header: pydicom.Dataset) -> list[Image]:
    """The frames of an Enhanced MR object (DICOM PS3.3, C.7.6.16): geometry and times in its functional groups."""
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]

    def found(frame: pydicom.Dataset, macro: str) -> pydicom.Dataset:
        items = frame.get(macro) or shared[0].get(macro)
        return items[0] if items else pydicom.Dataset()

    images = []
    for k, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        beat, content = found(frame, "CardiacSynchronizationSequence"), found(frame, "FrameContentSequence")
        value, measures = found(frame, "PixelValueTransformationSequence"), found(frame, "PixelMeasuresSequence")
        trigger = optional(beat, "NominalCardiacTriggerDelayTime", float)
        images.append(Image(
            path=file, plane=plane_of(header, found(frame, "PlaneOrientationSequence"),
                                      found(frame, "PlanePositionSequence"), measures),
            series=optional(header, "SeriesNumber", int) or 0, third=0, number=None, order=k + 1,
            trigger_ms=optional(beat, "ActualCardiacTriggerDelayTime", float) if trigger is None else trigger,
            temporal=optional(content, "TemporalPositionIndex", int), clock_s=None,
            cycle_ms=optional(beat, "RRIntervalTimeNominal", float) or None, phases=None,
            thickness_mm=optional(measures, "SliceThickness", float), slice_location=None, **described(file, header),
            frame=k, rescale=(optional(value, "RescaleSlope", float) or 1.0,
                              optional(value, "RescaleIntercept", float) or 0.0)))
    return images


def plane_of(header: pydicom.Dataset, orientation: pydicom.Dataset, position: pydicom.Dataset,
             measures: pydicom.Dataset) -> Plane:
    """Raises ValueError, naming what is missing."""
    for where, tag in ((orientation, "ImageOrientationPatient"), (position, "ImagePositionPatient"),
                       (measures, "PixelSpacing"), (header, "Rows"), (header, "Columns")):
        if tag not in where:
            raise ValueError(f"no {tag}")
    axes = np.array([float(v) for v in orientation.ImageOrientationPatient])
    row_mm, column_mm = (float(v) for v in measures.PixelSpacing)
    return Plane(np.array([float(v) for v in position.ImagePositionPatient]), axes[:3], axes[3:], (row_mm, column_mm),
                 (int(header.Rows), int(header.Columns)))


def described(file: Path, header: pydicom.Dataset) -> dict[str, Any]:
    return {"description": str(header.get("SeriesDescription") or header.get("ProtocolName") or file.parent.name),
            "study_uid": str(header.get("StudyInstanceUID") or ""), "patient": str(header.get("PatientID") or ""),
            "height_m": optional(header, "PatientSize", float), "weight_kg": optional(header, "PatientWeight", float),
            "heart_rate_bpm": optional(header, "HeartRate", float)}


def optional(header: pydicom.Dataset, tag: str, kind: Callable[[Any], Number]) -> Number | None:
    """A number, or None where the tag is missing or empty."""
    value = header.get(tag)
    return None if value is None or value == "" else kind(value)


def clock_s(header: pydicom.Dataset) -> float | None:
    """AcquisitionTime, else ContentTime, in seconds since midnight."""
    text = str(header.get("AcquisitionTime") or header.get("ContentTime") or "")
    if not re.fullmatch(r"\d{6}(\.\d*)?", text):
        return None
    return int(text[:2]) * 3600 + int(text[2:4]) * 60 + float(text[4:])
