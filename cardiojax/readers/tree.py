"""Where the studies are in a tree of folders: what is one, what belongs together, what is left out and why."""

import dataclasses
import logging
from pathlib import Path

from cardiojax.readers.archive import is_archive
from cardiojax.readers.dicom_header import Exam, exam_of, is_dicom
from cardiojax.readers.nifti import existing
from cardiojax.readers.ukbb import NAME as UKBB_NAME

log = logging.getLogger("cardiojax")

NIFTI_PAIRS = (("sa_ED", "sa_ES"), ("ED", "ES"), ("sax_ed", "sax_es"))
NIFTI = (".nii", ".nii.gz")
LABELS = ("_gt", "_seg", "_label", "_labels", "_mask", "-seg", "-label", "-mask")     # after an image's name


@dataclasses.dataclass(frozen=True)
class Found:
    """A study; of DICOM the exam that it is of, and the first file's UID of every folder in it."""

    path: Path
    exam: Exam | None = None
    instances: frozenset[str] = frozenset()
    single_slice: bool = False


def find_studies(path: Path) -> list[Path]:
    """The studies in a tree: `path` itself where it is one, else every study below it, sorted. A DICOMDIR stands for
    its folder.

    DICOM folders of one exam are found as the folder above them, where that holds nothing else. An exam that lies in
    the tree twice is named and found twice. Label images beside their image, and folders without any image, are named
    in the log.
    """
    path = Path(path)
    if path.name.upper() == "DICOMDIR" and path.is_file():
        path = path.parent
    if not path.is_dir() or is_study(path):
        return [path]
    found = sorted(below(path), key=lambda f: f.path)
    first: dict[str, Path] = {}
    for study in found:
        known = next((first[i] for i in study.instances if i in first), None)
        if known is not None:
            log.warning("%s holds the same exam as %s; both are taken", study.path, known)
        first |= dict.fromkeys(study.instances, study.path)
    return [study.path for study in found] or [path]


def below(folder: Path) -> list[Found]:
    """The studies in a folder that is none itself."""
    found, names = [], {p.name for p in folder.iterdir()}
    for path in sorted(folder.iterdir()):
        if image := labels_of(path.name, names):
            log.info("%s left out: labels of %s", path, image)
        elif is_study(path):
            found.append(described(path))
        elif path.is_dir():
            inside = below(path)
            if not inside and not any(p.is_dir() for p in path.iterdir()):
                log.info("%s left out: there is no image in it", path)
            found += inside
    if len(found) > 1 and of_one_exam(found):
        first = found[0]
        return [Found(folder, first.exam, frozenset().union(*(f.instances for f in found)))]
    return found


def of_one_exam(found: list[Found]) -> bool:
    """Whether folders are the series of one exam: of one patient and StudyInstanceUID, no image twice; where an archive
    has removed that, folders with a single slice each."""
    exams = [f.exam for f in found]
    if None in exams or len({e.patient for e in exams if e}) > 1 or len({e.study_uid for e in exams if e}) > 1:
        return False
    if sum(len(f.instances) for f in found) > len(frozenset().union(*(f.instances for f in found))):
        return False
    return bool(exams[0] and exams[0].study_uid) or all(f.single_slice for f in found)


def described(path: Path) -> Found:
    files = [f for f in (sorted(path.iterdir()) if path.is_dir() else ()) if f.is_file() and is_dicom(f)]
    if not files:
        return Found(path)
    exam = exam_of(files[0])
    if exam.study_uid:
        return Found(path, exam, frozenset({exam.instance_uid} - {""}))
    single = {exam_of(f).position for f in files} == {exam.position}
    return Found(path, exam, frozenset({exam.instance_uid} - {""}), single)


def labels_of(name: str, names: set[str]) -> str | None:
    """The image beside a file that is, by its name, the label image of it."""
    for ending in NIFTI:
        stem = name.removesuffix(ending)
        for label in LABELS:
            if name.endswith(ending) and stem.endswith(label) and (image := stem.removesuffix(label) + ending) in names:
                return image
    return None


def is_study(path: Path) -> bool:
    if path.is_file():
        return bool(UKBB_NAME.search(path.name)) or path.name.endswith(NIFTI) or is_archive(path)
    if (path / "Info.cfg").is_file() or pair_of(path):
        return True
    if cine_of(path) or (path / "study").is_dir() or any(p.is_dir() for p in path.glob("sax_*")):
        return True
    return any(p.is_file() and is_dicom(p) for p in path.iterdir())


def pair_of(folder: Path) -> tuple[str, str] | None:
    """The names of a folder's ED and ES images, without their ending, where it has either: sa_ED, ED, sax_ed (CineMA),
    or one of these after the folder's name (M&Ms' CODE_sa_ED)."""
    for before in ("", f"{folder.name}_"):
        for ed, es in NIFTI_PAIRS:
            pair = before + ed, before + es
            if any(existing(folder, stem, required=False) for stem in pair):
                return pair
    return None


def cine_of(path: Path) -> Path | None:
    """A 4D NIfTI: the path itself, or in a folder ukbb_cardiac's `sa`, ACDC's `patient001_4d`, M&Ms' `CODE_sa`."""
    if path.is_file():
        return path if path.name.endswith(NIFTI) else None
    stems = ("sa", f"{path.name}_4d", f"{path.name}_sa")
    return next((f for stem in stems if (f := existing(path, stem, required=False))), None)
