"""The tables that `cardiojax predict` reads and goes on with."""

import csv
import dataclasses
from pathlib import Path

from cardiojax.errors import InputError, one_line
from cardiojax.files import text_of
from cardiojax.study import Patient


def rows_of(table: Path, columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The whole rows of an earlier run's table; a last line that was cut off is measured again."""
    try:
        lines = table.read_bytes().decode().splitlines(keepends=True)
        last = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != columns if lines else not ",".join(columns).startswith(last):
            raise InputError(f"--resume: {table} has other columns than this version writes")
        return {text_of(row["study_id"]): row for row in reader if None not in row.values() and None not in row}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--resume: {table} cannot be read ({one_line(error)})") from None


def phases_of(table: Path | None) -> dict[str, tuple[int, int]]:
    """study_id → (ED, ES). Raises InputError in one line."""
    if table is None:
        return {}
    try:
        with table.open(newline="") as stream:
            return {text_of(row["study_id"]): (int(row["ed"]), int(row["es"])) for row in csv.DictReader(stream)}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"--frames: {table} is no table of study_id, ed and es ({one_line(error)})") from None


def patients_of(table: Path | None) -> dict[str, dict[str, float]]:
    """study_id → what is known of its patient, by the fields of `Patient`. Raises InputError in one line."""
    if table is None:
        return {}
    fields = [field.name for field in dataclasses.fields(Patient)]
    try:
        with table.open(newline="") as stream:
            return {text_of(row["study_id"]): {f: float(row[f]) for f in fields if row.get(f)}
                    for row in csv.DictReader(stream)}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"--patients: {table} is no table of study_id, {', '.join(fields)} ({one_line(error)})"
                         ) from None
