"""A path on disk → `Study`. Each reader logs what it dropped and why (logger `cardiojax`)."""

from pathlib import Path

from cardiojax.errors import StudyError
from cardiojax.readers.archive import is_archive, name_of, unpacked
from cardiojax.readers.dicom import read_dicom_cine, read_dicom_study
from cardiojax.readers.nifti import (
    acdc_info,
    acdc_patient,
    existing,
    read_acdc,
    read_nifti_cine,
    read_nifti_phases,
    read_nifti_study,
)
from cardiojax.readers.tree import NIFTI, cine_of, find_studies, pair_of
from cardiojax.readers.ukbb import NAME as UKBB_NAME
from cardiojax.readers.ukbb import read_ukbb_cine, read_ukbb_zip
from cardiojax.readers.ukbb import study_id_of as ukbb_id_of
from cardiojax.study import Cine, Study

__all__ = ["find_studies", "read_acdc", "read_cine", "read_dicom_cine", "read_dicom_study", "read_nifti_cine",
           "read_nifti_phases", "read_nifti_study", "read_study", "read_ukbb_cine", "read_ukbb_zip", "study_id_of"]


def read_study(path: Path, frames: tuple[int, int] | None = None, series: str | None = None) -> Study:
    """Read one study of any known layout: ACDC patient, `sa_ED`/`sa_ES` or `ED`/`ES` NIfTI pair, 4D NIfTI (a file, or
    `sa` in a folder), UK Biobank zip, DICOM folder, or a zip or tar of one.

    frames: 1-based phases of ED and ES in a cine; found where not given. series: of DICOM, see `series.short_axis`.
    Raises StudyError with one line where nothing can be read.
    """
    path, name = _existing(path)
    if is_archive(path):
        with unpacked(path) as folder:
            return read_study(_only(folder), frames, series)
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
    if is_archive(path):
        with unpacked(path) as folder:
            return read_cine(_only(folder), series)
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


def _only(folder: Path) -> Path:
    """The one study of an unpacked archive."""
    studies = find_studies(folder)
    if len(studies) > 1:
        raise StudyError(f"study {folder.name}: the archive holds {len(studies)} studies; `cardiojax predict` measures "
                         "each of them")
    return studies[0]


def _two_frames(folder: Path, name: str) -> Study | None:
    """ED and ES as a folder names them: Info.cfg (of frames or of the 4D), or a pair of files."""
    if (folder / "Info.cfg").is_file():
        cine = cine_of(folder)
        if cine and not any(folder.glob(f"{folder.name}_frame*")):
            info = acdc_info(folder)
            study = read_nifti_cine(cine, (int(info["ED"]), int(info["ES"])), name)
            return study.replace(patient=acdc_patient(info))
        return read_acdc(folder)
    if pair := pair_of(folder):
        ed, es = (existing(folder, stem) for stem in pair)
        return read_nifti_study((ed, es), study_id=name)
    return None


def study_id_of(path: Path) -> str:
    """What `read_study` calls the study of a path."""
    path = Path(path)
    if UKBB_NAME.search(path.name):
        return ukbb_id_of(path)
    if is_archive(path):
        return name_of(path)
    if path.name == "study":                            # the challenge's layout
        return path.absolute().parent.name
    return path.name.removesuffix(".gz").removesuffix(".nii") if path.name.endswith(NIFTI) else path.absolute().name
