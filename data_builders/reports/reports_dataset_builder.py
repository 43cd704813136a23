"""A site's own studies with volumes out of its reports: images of any layout that `cardiojax predict` reads; a table.

SOURCE/volumes.csv has the columns study_id, edv_ml and esv_ml, and may have ed and es (1-based phases) and split.
"""

import csv
import functools
import logging
import math
from pathlib import Path

import numpy as np

from cardiojax.data.study_builder import StudyBuilder, fixed_fraction
from cardiojax.errors import StudyError
from cardiojax.readers import find_studies, read_study, study_id_of
from cardiojax.study import Study

log = logging.getLogger("cardiojax")

TABLE = "volumes.csv"
SPLITS = ("train", "validation", "test")
TRAIN_SHARE, VALIDATION_SHARE = 0.7, 0.15          # where the table has no split


class Builder(StudyBuilder):
    """Split as the table says, or by a fixed hash of the study: 70, 15 and 15 %."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"SOURCE is a folder with {TABLE} and, below it, the studies: DICOM exports, NIfTI or archives, as `cardiojax "
        "predict` reads them. A row a study: study_id (what `cardiojax predict` calls it, the name of its folder or "
        "file), edv_ml, esv_ml; if known ed and es (1-based phases); split (train, validation, test), which must be "
        "one for all studies of a patient.")

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir)
        rows, paths = read_table(root / TABLE), paths_of(root)
        for study_id in sorted(set(paths) - set(rows)):
            log.info("study %s: not in %s, left out", study_id, TABLE)
        for study_id in sorted(set(rows) - set(paths)):
            self.failures[study_id] = f"study {study_id}: in {TABLE}, but there are no images of it"
            log.warning("%s", self.failures[study_id])
        sources = {split: [] for split in SPLITS}
        for study_id in sorted(set(rows) & set(paths)):
            sources[split_of(rows[study_id])].append((study_id, functools.partial(read, paths[study_id],
                                                                                  rows[study_id])))
        return self._splits({split: members for split, members in sources.items() if members})


def paths_of(root: Path) -> dict[str, Path]:
    """The studies below a folder by their ids. Raises StudyError where two have the same."""
    found: dict[str, Path] = {}
    for path in find_studies(root):
        if (known := found.setdefault(study_id_of(path), path)) != path:
            raise StudyError(f"study {study_id_of(path)}: both {known} and {path} are called that")
    return found


def split_of(row: dict[str, str]) -> str:
    if row.get("split"):
        return row["split"]
    at = fixed_fraction("reports", row["study_id"])
    return "train" if at < TRAIN_SHARE else "validation" if at < TRAIN_SHARE + VALIDATION_SHARE else "test"


def read(path: Path, row: dict[str, str]) -> Study:
    """One study; ED and ES are found where the table does not name them. Raises StudyError in one line."""
    phases = (int(row["ed"]), int(row["es"])) if row.get("ed") and row.get("es") else None
    return read_study(path, phases).replace(volumes_ml=np.array([float(row["edv_ml"]), float(row["esv_ml"])]))


def read_table(file: Path) -> dict[str, dict[str, str]]:
    """Its rows by study_id. Raises StudyError in one line, naming the row."""
    if not file.is_file():
        raise StudyError(f"no {TABLE} in {file.parent}")
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if lacking := {"study_id", "edv_ml", "esv_ml"} - set(reader.fieldnames or ()):
            raise StudyError(f"{TABLE}: column {sorted(lacking)[0]} is missing, found {reader.fieldnames}")
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            study_id = row["study_id"]
            if study_id in rows:
                raise StudyError(f"{TABLE}: study {study_id} has two rows")
            rows[study_id] = checked(row)
    return rows


def checked(row: dict[str, str]) -> dict[str, str]:
    """Raises StudyError for what is no volume, no phase or no split."""
    def wrong(column: str, expected: str) -> StudyError:
        return StudyError(f"{TABLE}: {column} of study {row['study_id']} is {row[column]!r}, expected {expected}")

    volumes = {}
    for column in ("edv_ml", "esv_ml"):
        try:
            volumes[column] = float(row[column])
        except (TypeError, ValueError):
            raise wrong(column, "a number of ml") from None
        if not (math.isfinite(volumes[column]) and volumes[column] > 0):
            raise wrong(column, "a number of ml above 0")
    if volumes["esv_ml"] >= volumes["edv_ml"]:
        raise wrong("esv_ml", f"less than the EDV, {row['edv_ml']}")
    for column in ("ed", "es"):
        if row.get(column) and not (row[column].isdigit() and int(row[column]) > 0):
            raise wrong(column, "a phase from 1 on")
    if bool(row.get("ed")) != bool(row.get("es")):
        raise StudyError(f"{TABLE}: study {row['study_id']} has one of ed and es, expected both or neither")
    if row.get("split") and row["split"] not in SPLITS:
        raise wrong("split", ", ".join(SPLITS))
    return row
