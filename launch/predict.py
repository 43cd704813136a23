"""`cardiojax predict`: studies on disk → a CSV of volumes."""

import csv
import dataclasses
import logging
from pathlib import Path

import tyro
from rich.progress import track
from tyro.conf import Positional

from cardiojax.errors import InputError, StudyError

log = logging.getLogger("cardiojax")


@dataclasses.dataclass(frozen=True)
class Predict:
    """Measure studies: DICOM folders, NIfTI ED/ES pairs, ACDC patients, or folders full of them.

    A study that cannot be read is named with its reason; the others are still measured, and the exit code is 1.
    """

    studies: Positional[tuple[Path, ...]]
    """Studies, or trees of them."""
    run: Path
    """A finished run folder."""
    csv: Path
    """The table to write, one row a study."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Predict, args=argv, prog="cardiojax predict")
    if not args.studies:
        raise InputError("no study given")
    from cardiojax.predict import COLUMNS, Predictor
    from cardiojax.readers import find_studies

    predictor = Predictor(args.run)
    paths = [p for root in args.studies for p in find_studies(root)]
    done, failed = 0, []
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for path in track(paths, description="studies", disable=len(paths) < 2):
            try:
                writer.writerow(predictor.predict(path).row())
                stream.flush()
                done += 1
            except StudyError as error:
                failed.append(str(error))
                log.error("%s", error)
    if not done:
        raise InputError(f"none of {len(failed)} studies could be measured: {failed[0]}")
    log.info("%d studies measured, %d failed: %s", done, len(failed), args.csv)
    return 1 if failed else 0
