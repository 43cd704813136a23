"""What DICOM headers say of each image of a study; what cannot be read is logged and left out."""

import dataclasses
import logging
import re
from pathlib import Path

import numpy as np
import pydicom
import pydicom.errors
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut

from cardiojax.errors import StudyError, one_line
from cardiojax.readers.geometry import Plane

log = logging.getLogger("cardiojax")

CHALLENGE_NAME = re.compile(r"IM-(\d+)-(\d+)(?:-(\d+))?\.dcm$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Image:
    """One DICOM file: what its header says, and the file itself for its pixels."""

    path: Path
    plane: Plane
    series: int
    third: int              # third number of a challenge name: slice or trial within the series
    phase: int | None       # 1-based, from the name or InstanceNumber
    order: int              # InstanceNumber, or the name's number
    trigger_ms: float
    phases: int | None      # CardiacNumberOfImages
    thickness_mm: float | None
    slice_location: float | None
    description: str        # SeriesDescription, else ProtocolName, else the folder's name
    study_uid: str

    def pixels(self) -> np.ndarray:
        """(rows, columns) in the scanner's values. Raises ValueError and what pydicom raises where it cannot."""
        dataset = pydicom.dcmread(self.path)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax is not None and syntax.is_compressed and not get_decoder(syntax).is_available:
            raise ValueError(f"compressed as {syntax.name}, which needs `pip install 'cardiojax[compressed]'`")
        pixels = apply_modality_lut(dataset.pixel_array, dataset).astype(np.float32)
        if pixels.ndim != 2:
            raise ValueError(f"pixels of shape {pixels.shape}, expected one grey image")
        return -pixels if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else pixels


def read_headers(path: Path, study_id: str) -> list[Image]:
    """The usable images of the short-axis series below `path`; what cannot be read is logged and left out."""
    if not path.is_dir():
        raise StudyError(f"study {study_id}: {path} is not a folder")
    folders = sorted(p for p in path.rglob("sax_*") if p.is_dir()) or [path]
    files = sorted(f for folder in folders for f in folder.rglob("*") if f.is_file() and is_dicom(f))
    if not files:
        raise StudyError(f"study {study_id}: no DICOM files in {path}")
    images = []
    for file in files:
        try:
            images.append(read_header(file))
        except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
            log.warning("study %s: file %s dropped: not DICOM (%s)", study_id, file.name, one_line(error))
        except Exception as error:                      # pydicom's parser raises many kinds
            log.warning("study %s: file %s dropped: header unusable (%s)", study_id, file.name, one_line(error))
    if not images:
        raise StudyError(f"study {study_id}: none of {len(files)} files in {path} is a usable DICOM image")
    return images


def is_dicom(file: Path) -> bool:
    """By its suffix, or by the four letters that every DICOM file has: archives name files as they like."""
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR":
        return False
    if file.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def study_uid(file: Path) -> str:
    """StudyInstanceUID; empty where the file has none or is no DICOM."""
    return _tag(file, "StudyInstanceUID")


def position(file: Path) -> str:
    """ImagePositionPatient as it is written; empty where the file has none or is no DICOM."""
    return _tag(file, "ImagePositionPatient")


def _tag(file: Path, name: str) -> str:
    try:
        return str(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[name]).get(name) or "")
    except Exception:                                   # `read_headers` says why
        return ""


def read_header(file: Path) -> Image:
    header = pydicom.dcmread(file, stop_before_pixels=True)
    orientation = np.array([float(v) for v in header.ImageOrientationPatient])
    spacing = tuple(float(v) for v in header.PixelSpacing)
    plane = Plane(np.array([float(v) for v in header.ImagePositionPatient]), orientation[:3], orientation[3:],
                  spacing, (int(header.Rows), int(header.Columns)))
    name = CHALLENGE_NAME.search(file.name)
    instance = header.get("InstanceNumber")
    trigger = header.get("TriggerTime")
    number = int(name[2]) if name else (int(instance) if instance is not None else None)
    order = int(instance) if instance is not None else number or 0
    count = header.get("CardiacNumberOfImages")
    thickness, location = header.get("SliceThickness"), header.get("SliceLocation")
    return Image(
        path=file, plane=plane, series=int(header.get("SeriesNumber") or 0),
        third=int(name[3]) if name and name[3] else 0, phase=number, order=order,
        trigger_ms=float(trigger) if trigger is not None else float(order),
        phases=int(count) if count else None,
        thickness_mm=float(thickness) if thickness is not None else None,
        slice_location=float(location) if location is not None else None,
        description=str(header.get("SeriesDescription") or header.get("ProtocolName") or file.parent.name),
        study_uid=str(header.get("StudyInstanceUID") or ""))
