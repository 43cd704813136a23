"""Kaggle Second Annual Data Science Bowl (2016): DICOM studies with EDV and ESV, 500 + 200 + 440 of them."""

import csv
import dataclasses
import functools
import logging
from pathlib import Path

import numpy as np

from cardiojax.data.study_builder import Source, StudyBuilder, fixed_fraction
from cardiojax.errors import StudyError, one_line
from cardiojax.readers.dicom import read_dicom_study
from cardiojax.study import Study

log = logging.getLogger("cardiojax")

OFFICIAL = {"train": "train", "validate": "validation", "test": "test"}      # their folder → our split
TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.1


@dataclasses.dataclass(frozen=True)
class Tables:
    """What stands beside the images: volumes by study, and what an annotation folder adds where there is one."""

    volumes_ml: dict[str, tuple[float, float]]
    frames: dict[str, tuple[int, int]]
    masks: Path

    def masks_of(self, study_id: str) -> tuple[Path, Path] | None:
        ed, es = (self.masks / f"{study_id}_{phase}.nii.gz" for phase in ("ED", "ES"))
        return (ed, es) if ed.is_file() and es.is_file() else None


class Builder(StudyBuilder):
    """The official splits; of the training studies alone 60/10/30 % by a fixed hash of the study."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Accept the rules of the Kaggle competition 'second-annual-data-science-bowl', download and unpack "
        "train.zip, validate.zip, test.zip, train.csv, validate.csv and solution.csv into SOURCE, so that "
        "SOURCE/train/1/study/sax_*/ exists (a doubled SOURCE/train/train/1 is accepted). Optional: "
        "SOURCE/annotations/frames.csv (Id,ED,ES; 1-based phases) and SOURCE/annotations/masks/ID_{ED,ES}.nii.gz.")

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir)
        found = {ours: folders for theirs, ours in OFFICIAL.items() if (folders := study_folders(root / theirs))}
        if not found:
            raise StudyError(f"no studies in {root}: expected train/1/study/sax_*/ (or train/train/1/…)")
        if set(found) == {"train"}:
            found = split_by_hash(found["train"])
        tables = read_tables(root)
        with_folder = {f.name for folders in found.values() for f in folders}
        for study_id in sorted(set(tables.volumes_ml) - with_folder, key=numeric):
            log.info("study %s: named in the CSV, but there is no folder", study_id)
        return self._splits({name: sources(folders, tables) for name, folders in found.items()})


def study_folders(folder: Path) -> list[Path]:
    if (folder / folder.name).is_dir():
        folder = folder / folder.name
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: numeric(p.name))


def numeric(study_id: str) -> tuple[int, str]:
    return (int(study_id) if study_id.isdigit() else 1 << 30, study_id)


def split_by_hash(folders: list[Path]) -> dict[str, list[Path]]:
    splits = {"train": [], "validation": [], "test": []}
    for folder in folders:
        at = fixed_fraction("second-annual-data-science-bowl", folder.name)
        name = "train" if at < TRAIN_SHARE else "validation" if at < TRAIN_SHARE + VALIDATION_SHARE else "test"
        splits[name].append(folder)
    return {name: members for name, members in splits.items() if members}


def sources(folders: list[Path], tables: Tables) -> list[Source]:
    return [(f.name, functools.partial(read_annotated, f, tables)) for f in folders]


def read_annotated(folder: Path, tables: Tables) -> Study:
    study_id = folder.name
    masks = tables.masks_of(study_id)
    try:
        study = read_dicom_study(folder, frames=tables.frames.get(study_id), masks=masks, study_id=study_id)
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"study {study_id}: mask unreadable ({one_line(error)})") from None
    if masks is None:
        log.info("study %s: no masks", study_id)
    if study_id not in tables.volumes_ml:
        log.warning("study %s: no volumes in any CSV", study_id)
        return study
    return study.replace(volumes_ml=np.array(tables.volumes_ml[study_id]))


def read_tables(root: Path) -> Tables:
    """All CSVs that are there. Raises StudyError where one is malformed, naming file and line."""
    volumes: dict[str, dict[str, float]] = {}
    for name in ("train.csv", "validate.csv"):
        for row in rows(root / name, {"Id", "Systole", "Diastole"}):
            volumes[row["Id"]] = {"Diastole": number(row, "Diastole", name), "Systole": number(row, "Systole", name)}
    for row in rows(root / "solution.csv", {"Id", "Volume"}):
        study_id, _, phase = row["Id"].rpartition("_")
        volumes.setdefault(study_id, {})[phase] = number(row, "Volume", "solution.csv")
    frames = {row["Id"]: (int(number(row, "ED", "frames.csv")), int(number(row, "ES", "frames.csv")))
              for row in rows(root / "annotations" / "frames.csv", {"Id", "ED", "ES"})}
    return Tables({k: (v.get("Diastole", np.nan), v.get("Systole", np.nan)) for k, v in volumes.items()},
                  frames, root / "annotations" / "masks")


def rows(file: Path, columns: set[str]) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if not columns <= set(reader.fieldnames or ()):
            raise StudyError(f"{file.name}: columns {sorted(columns)} expected, found {reader.fieldnames}")
        return [row for row in reader if row["Id"]]


def number(row: dict[str, str], column: str, file: str) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError):
        raise StudyError(f"{file}: {column} of study {row['Id']} is {row[column]!r}, expected a number") from None
