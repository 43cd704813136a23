"""A path on disk → `Study`. Each reader logs what it dropped and why (logger `cardiojax`)."""

from pathlib import Path

from cardiojax.errors import StudyError
from cardiojax.readers.dicom import read_dicom_study
from cardiojax.readers.nifti import existing, read_acdc, read_nifti_study
from cardiojax.readers.ukbb import NAME as UKBB_NAME
from cardiojax.readers.ukbb import read_ukbb_zip
from cardiojax.study import Study

__all__ = ["find_studies", "read_acdc", "read_dicom_study", "read_nifti_study", "read_study",
           "read_ukbb_zip"]

NIFTI_PAIRS = (("sa_ED", "sa_ES"), ("ED", "ES"))


def read_study(path: Path) -> Study:
    """Read one study of any known layout: ACDC patient, `sa_ED`/`sa_ES` or `ED`/`ES` NIfTI pair, UK Biobank zip, DICOM
    folder."""
    path = Path(path)
    if not path.exists():
        raise StudyError(f"study {path.name}: {path} does not exist")
    if path.is_file() and UKBB_NAME.search(path.name):
        return read_ukbb_zip(path)
    if (path / "Info.cfg").is_file():
        return read_acdc(path)
    for ed, es in NIFTI_PAIRS:
        if existing(path, ed, required=False) or existing(path, es, required=False):
            return read_nifti_study((existing(path, ed), existing(path, es)), study_id=path.name)
    return read_dicom_study(path)


def find_studies(path: Path) -> list[Path]:
    """The studies in a tree: `path` itself where it is one, else every study below it, sorted."""
    path = Path(path)
    if not path.is_dir() or is_study(path):
        return [path]
    found = {p for child in path.iterdir() if child.is_dir() for p in find_studies(child)
             if is_study(p) or (p == child and not any(c.is_dir() for c in child.iterdir()))}
    found |= {p for p in path.glob("*.zip") if UKBB_NAME.search(p.name)}
    return sorted(found) or [path]


def is_study(path: Path) -> bool:
    if path.is_file():
        return bool(UKBB_NAME.search(path.name))
    if (path / "Info.cfg").is_file() or any(existing(path, n, False) for pair in NIFTI_PAIRS for n in pair):
        return True
    if (path / "study").is_dir() or any(p.is_dir() for p in path.glob("sax_*")):
        return True
    return any(p.suffix.lower() in (".dcm", ".ima") for p in path.iterdir())
