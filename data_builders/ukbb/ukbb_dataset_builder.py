"""UK Biobank cardiac MRI: raw zips of field 20209, or the NIfTI files that ukbb_cardiac makes of them."""

import csv
import functools
import logging
from pathlib import Path

import numpy as np

from cardiojax.data.study_builder import Source, StudyBuilder, fixed_fraction
from cardiojax.errors import StudyError
from cardiojax.readers.nifti import existing, read_nifti_study
from cardiojax.readers.ukbb import NAME, participant_of, read_ukbb_zip, study_id_of
from cardiojax.study import Study

log = logging.getLogger("cardiojax")

TEST_SHARE, VALIDATION_SHARE = 412 / 4687, 300 / 4687          # the paper's
# columns that name a study, its EDV and its ESV (ml): ukbb_cardiac's table, and UK Biobank's own fields
ID, EDV, ESV = ("study_id", "eid", ""), ("edv_ml", "LVEDV (mL)", "22421-2.0"), ("esv_ml", "LVESV (mL)", "22422-2.0")


class Builder(StudyBuilder):
    """Splits by participant, as large as the paper's: 8.8 % test, 6.4 % validation. Volumes from `volumes.csv` where
    it names the study, else by Simpson from its masks."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Apply for access at UK Biobank and fetch field 20209 with its own tools, so that SOURCE holds "
        "{eid}_20209_2_0.zip files; or convert them with ukbb_cardiac, so that SOURCE/{eid}/sa_ED.nii.gz, sa_ES.nii.gz "
        "and label_sa_ED.nii.gz, label_sa_ES.nii.gz exist. Volumes come from these labels, or from SOURCE/volumes.csv "
        "with columns eid, LVEDV (mL), LVESV (mL); ED and ES of raw studies from SOURCE/frames.csv (eid,ED,ES, from 1) "
        "where it is there.")

    patient_of = staticmethod(participant_of)

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir)
        found = sources(root)
        if not found:
            raise StudyError(f"no UK Biobank study in {root}: expected {{eid}}_20209_2_0.zip or {{eid}}/sa_ED.nii.gz")
        splits = {"train": [], "validation": [], "test": []}
        for source in found:
            at = fixed_fraction("ukbb", self.patient_of(source[0]))
            splits["test" if at < TEST_SHARE else "validation" if at < TEST_SHARE + VALIDATION_SHARE else "train"
                   ].append(source)
        return self._splits({name: members for name, members in splits.items() if members})


def sources(root: Path) -> list[Source]:
    """Raw and converted studies below `root`; of a study that is there as both, the converted one."""
    volumes, frames = volumes_ml(root / "volumes.csv"), ed_es(root / "frames.csv")
    found = {study_id_of(f): functools.partial(read_raw, f, frames.get(study_id_of(f)), volumes.get(study_id_of(f)))
             for f in sorted(root.glob("*.zip")) if NAME.search(f.name)}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and existing(p, "sa_ED", required=False)):
        found[folder.name] = functools.partial(read_converted, folder, volumes.get(folder.name))
    return sorted(found.items())


def read_raw(file: Path, frames: tuple[int, int] | None, volumes: np.ndarray | None) -> Study:
    study = read_ukbb_zip(file, frames)
    if volumes is None:
        log.warning("study %s: no volumes, neither masks nor a line in volumes.csv", study.study_id)
    return study.replace(volumes_ml=volumes)


def read_converted(folder: Path, volumes: np.ndarray | None) -> Study:
    masks = tuple(existing(folder, f"label_sa_{phase}", required=False) for phase in ("ED", "ES"))
    study = read_nifti_study((existing(folder, "sa_ED"), existing(folder, "sa_ES")), masks if all(masks) else None,
                             {1: 1, 2: 2, 3: 3}, folder.name)
    if volumes is None and study.masks is not None:
        volumes = study.volumes_from_masks_ml()
    return study.replace(volumes_ml=volumes)


def volumes_ml(file: Path) -> dict[str, np.ndarray]:
    """(EDV, ESV) by study. Raises StudyError for a table without such columns; lines without numbers are named."""
    found = {}
    for study_id, row, columns in rows(file, (EDV, ESV)):
        try:
            found[study_id] = np.array([float(row[c]) for c in columns])
        except (TypeError, ValueError):
            log.warning("study %s: no volumes in %s", study_id, file.name)
    return found


def ed_es(file: Path) -> dict[str, tuple[int, int]]:
    """1-based phases of ED and ES by study."""
    found = {}
    for study_id, row, (ed, es) in rows(file, (("ED",), ("ES",))):
        try:
            found[study_id] = int(row[ed]), int(row[es])
        except (TypeError, ValueError):
            log.warning("study %s: no ED and ES in %s", study_id, file.name)
    return found


def rows(file: Path, wanted: tuple[tuple[str, ...], ...]) -> list[tuple[str, dict, tuple[str, ...]]]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        header = reader.fieldnames or []
        columns = tuple(next((c for c in names if c in header), None) for names in (ID, *wanted))
        if None in columns:
            missing = " or ".join(n or "(an empty name)" for n in (ID, *wanted)[columns.index(None)])
            raise StudyError(f"{file.name} has no column {missing}")
        return [(row[columns[0]], row, columns[1:]) for row in reader]
