"""A path on disk → `Study`. Each reader logs what it dropped and why (logger `cardiojax`)."""

import collections
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cardiojax.errors import StudyError
from cardiojax.readers.dicom import read_dicom_cine, read_dicom_study
from cardiojax.readers.dicom_header import is_dicom, position, study_uid
from cardiojax.readers.nifti import (
    acdc_info,
    existing,
    read_acdc,
    read_nifti_cine,
    read_nifti_phases,
    read_nifti_study,
)
from cardiojax.readers.ukbb import NAME as UKBB_NAME
from cardiojax.readers.ukbb import read_ukbb_cine, read_ukbb_zip
from cardiojax.readers.ukbb import study_id_of as ukbb_id_of
from cardiojax.study import Cine, Study

__all__ = ["find_studies", "read_acdc", "read_cine", "read_dicom_cine", "read_dicom_study", "read_nifti_cine",
           "read_nifti_phases", "read_nifti_study", "read_study", "read_ukbb_cine", "read_ukbb_zip", "study_id_of"]

NIFTI_PAIRS = (("sa_ED", "sa_ES"), ("ED", "ES"))
NIFTI = (".nii", ".nii.gz")


def read_study(path: Path, frames: tuple[int, int] | None = None, series: str | None = None) -> Study:
    """Read one study of any known layout: ACDC patient, `sa_ED`/`sa_ES` or `ED`/`ES` NIfTI pair, 4D NIfTI (a file, or
    `sa` in a folder), UK Biobank zip, DICOM folder.

    frames: 1-based phases of ED and ES in a cine; found where not given. series: of DICOM, see `series.short_axis`.
    Raises StudyError with one line where nothing can be read.
    """
    path, name = _existing(path)
    if path.is_file() and UKBB_NAME.search(path.name):
        return read_ukbb_zip(path, frames)
    cine = cine_of(path)
    if not (cine and frames is not None) and (study := _two_frames(path, name)):    # a pair may stand beside its cine
        return study
    if cine:
        return read_nifti_cine(cine, frames, name)
    return read_dicom_study(path, frames, study_id=name, series=series)


def read_cine(path: Path, series: str | None = None) -> Cine | Study:
    """As `read_study`, but with every phase where nothing at the path says which are ED and ES."""
    path, name = _existing(path)
    if path.is_file() and UKBB_NAME.search(path.name):
        return read_ukbb_cine(path)
    if study := _two_frames(path, name):
        return study
    if cine := cine_of(path):
        return read_nifti_phases(cine, name)
    return read_dicom_cine(path, study_id=name, series=series)


def _existing(path: Path) -> tuple[Path, str]:
    """A path and what its study is called. Raises StudyError where there is nothing."""
    path, name = Path(path), study_id_of(path)
    if not path.exists():
        raise StudyError(f"study {name}: {path} does not exist")
    return path, name


def _two_frames(folder: Path, name: str) -> Study | None:
    """ED and ES as a folder names them: Info.cfg (of frames or of the 4D), or a pair of files."""
    if (folder / "Info.cfg").is_file():
        cine = cine_of(folder)
        if cine and not any(folder.glob(f"{folder.name}_frame*")):
            info = acdc_info(folder)
            return read_nifti_cine(cine, (int(info["ED"]), int(info["ES"])), name)
        return read_acdc(folder)
    for ed, es in NIFTI_PAIRS:
        if existing(folder, ed, required=False) or existing(folder, es, required=False):
            return read_nifti_study((existing(folder, ed), existing(folder, es)), study_id=name)
    return None


def study_id_of(path: Path) -> str:
    """What `read_study` calls the study of a path."""
    path = Path(path)
    if UKBB_NAME.search(path.name):
        return ukbb_id_of(path)
    if path.name == "study":                            # the challenge's layout
        return path.absolute().parent.name
    return path.name.removesuffix(".gz").removesuffix(".nii") if path.name.endswith(NIFTI) else path.absolute().name


def cine_of(path: Path) -> Path | None:
    """A 4D NIfTI: the path itself, or in a folder ukbb_cardiac's `sa`, ACDC's `patient001_4d`, M&Ms' `CODE_sa`."""
    if path.is_file():
        return path if path.name.endswith(NIFTI) else None
    stems = ("sa", f"{path.name}_4d", f"{path.name}_sa")
    return next((f for stem in stems if (f := existing(path, stem, required=False))), None)


def find_studies(path: Path) -> list[Path]:
    """The studies in a tree: `path` itself where it is one, else every study below it, sorted. DICOM folders of one
    study (StudyInstanceUID) are found as the folder that holds them all; a DICOMDIR stands for its folder."""
    path = Path(path)
    if path.name.upper() == "DICOMDIR" and path.is_file():
        path = path.parent
    if not path.is_dir() or is_study(path):
        return [path]
    return sorted(joined(studies_below(path))) or [path]


def studies_below(folder: Path) -> Iterator[Path]:
    """Also a folder with neither folders nor studies in it: its reader says what is wrong with it."""
    for path in sorted(folder.iterdir()):
        if is_study(path):
            yield path
        elif path.is_dir():
            yield from studies_below(path)
            if not any(c.is_dir() or is_study(c) for c in path.iterdir()):
                yield path


def joined(found: Iterable[Path]) -> set[Path]:
    """Folders of one DICOM study, a series each, become the folder above them: those with the same StudyInstanceUID,
    and where an archive has removed it, neighbours that hold a single slice each."""
    whole, parts = set(), collections.defaultdict(list)
    for path in found:
        files = (f for f in (sorted(path.iterdir()) if path.is_dir() else ()) if f.is_file() and is_dicom(f))
        first = next(files, None)
        key = study_uid(first) if first else ""
        if first and not key and {position(f) for f in files} <= {position(first)}:
            key = path.parent
        parts[key].append(path) if key else whole.add(path)
    whole |= {Path(os.path.commonpath(folders)) for folders in parts.values()}
    return {path for path in whole if not any(above in whole for above in path.parents)}


def is_study(path: Path) -> bool:
    if path.is_file():
        return bool(UKBB_NAME.search(path.name)) or path.name.endswith(NIFTI)
    if (path / "Info.cfg").is_file() or any(existing(path, n, False) for pair in NIFTI_PAIRS for n in pair):
        return True
    if cine_of(path) or (path / "study").is_dir() or any(p.is_dir() for p in path.glob("sax_*")):
        return True
    return any(p.is_file() and is_dicom(p) for p in path.iterdir())
