"""`cardiojax predict`: studies on disk → a CSV of volumes."""

import collections
import csv
import dataclasses
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.progress import track
from tyro.conf import Positional

from cardiojax.errors import InputError, StudyError, one_line
from cardiojax.study import Cine, Patient, Study

if TYPE_CHECKING:
    from cardiojax.models.prediction import Prediction

log = logging.getLogger("cardiojax")


@dataclasses.dataclass(frozen=True)
class Predict:
    """Measure studies: DICOM folders, UK Biobank zips, 4D NIfTI, NIfTI ED/ES pairs, ACDC patients, or trees of them.

    Of mixed DICOM series the short-axis cine is found by its geometry. In a whole cine, contours find ED and ES by the
    volume of every phase; for a SFERA ED is the first phase and ES the one that differs most from it. Phases that are
    named are taken as they are. A study that cannot be read is named with its reason; the others are still measured,
    and the exit code is 1. `refer` is 1 where a person should look, for the `reasons` beside it.
    """

    studies: Positional[tuple[Path, ...]]
    """Studies, trees of them, or text files (.txt) with a path a line."""
    run: Path
    """A finished run folder."""
    csv: Path
    """The table to write, one row a study."""
    ed: int | None = None
    """Phase of the ED frame in every study's cine, from 1 (with --es)."""
    es: int | None = None
    """Phase of the ES frame."""
    frames: Path | None = None
    """CSV with columns study_id, ed and es: the phases of each study that it names."""
    patients: Path | None = None
    """CSV with columns study_id, height_cm, weight_kg and heart_rate_bpm, as far as they are known: for indices by body
    surface area and the cardiac output. It goes before what the files say."""
    series: str | None = None
    """Number of the DICOM series to read, or a part of its description or folder."""
    resume: bool = False
    """Keep the rows that --csv holds already and measure the rest."""
    figures: Path | None = None
    """Folder for a picture of each study: its slices at ED and ES (with contours, and the volume curve of a cine, by a
    contours run), and the numbers."""
    curves: Path | None = None
    """CSV for the volumes of every phase of every cine that a contours run has measured."""
    workers: int = 4
    """Studies that are read at a time."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Predict, args=argv, prog="cardiojax predict")
    if not args.studies:
        raise InputError("no study given")
    if (args.ed is None) != (args.es is None):
        raise InputError("--ed and --es go together")
    from cardiojax.files import write_text
    from cardiojax.models import load_measuring
    from cardiojax.models.prediction import COLUMNS
    from cardiojax.preparation import prepare
    from cardiojax.readers import read_cine, read_study, study_id_of

    model, named, patients = load_measuring(args.run), phases_of(args.frames), patients_of(args.patients)
    if args.curves and not model.sees_masks:
        raise InputError(f"--curves: {args.run} does not see volumes over the cycle; a contours run does")
    given = None if args.ed is None else (args.ed, args.es)
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    before = rows_of(args.csv, COLUMNS) if args.resume and args.csv.exists() else {}
    todo = [p for p in found(args.studies, args.resume) if study_id_of(p) not in before]

    def read(path: Path) -> Study | Cine:
        phases = named.get(study_id_of(path), given)
        study = read_cine(path, args.series) if model.sees_masks and not phases else read_study(
            path, phases, args.series)
        if known := patients.get(study_id_of(path)):
            study = dataclasses.replace(study, patient=dataclasses.replace(study.patient, **known))
        return study if isinstance(study, Cine) else prepare(study)

    done, failed = 0, []
    if before:                                          # whole, should this process end here
        write_text(args.csv, table_of(before.values(), COLUMNS))
    with args.csv.open("a" if before else "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if not before:
            writer.writeheader()
        for prediction in track(measured(todo, read, model.predict, max(1, args.workers)),
                                description="studies", total=len(todo), disable=len(todo) < 2):
            if isinstance(prediction, str):
                failed.append(prediction)
                log.error("%s", prediction)
                continue
            writer.writerow(prediction.row())
            stream.flush()
            done += 1
            if args.curves and prediction.curve is not None:
                add_curve(args.curves, prediction, new=done == 1 and not before)
            if args.figures:
                from cardiojax.evaluate.figures import contact_sheet
                contact_sheet(prediction, args.figures)
    if not done and failed and not before:
        raise InputError(f"none of {len(failed)} studies could be measured: {failed[0]}")
    log.info("%d studies measured%s, %d failed: %s", done, f", {len(before)} before" if before else "", len(failed),
             args.csv)
    return 1 if failed else 0


def measured(paths: list[Path], read: Callable[[Path], Study | Cine],
             predict: "Callable[[Study | Cine], Prediction]", workers: int) -> "Iterator[Prediction | str]":
    """What was measured of each study, or why not, in order."""
    for path, ready in zip(paths, ahead(read, paths, workers), strict=True):
        try:
            yield predict(ready())
        except StudyError as error:
            yield str(error)
        except Exception as error:                      # of a thousand studies none may end the others
            log.debug("", exc_info=True)
            yield f"{path}: {one_line(error)} (not foreseen: please report it)"


def add_curve(table: Path, prediction: "Prediction", new: bool):
    """A row a phase: study_id, phase, time_ms (empty where it is not known), lv_ml, myocardium_ml, rv_ml."""
    curve = prediction.curve
    assert curve is not None
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w" if new else "a", newline="") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(["study_id", "phase", "time_ms", "lv_ml", "myocardium_ml", "rv_ml"])
        for i, volumes in enumerate(zip(curve.lv_ml, curve.myocardium_ml, curve.rv_ml, strict=True)):
            time_ms = "" if curve.phase_ms is None else f"{curve.phase_ms[i]:.1f}"
            writer.writerow([prediction.study_id, i + 1, time_ms, *(f"{v:.2f}" for v in volumes)])


def found(arguments: Iterable[Path], distinct: bool) -> list[Path]:
    """Every study that the arguments name, once. Raises InputError where `distinct` and two have the same name."""
    from cardiojax.readers import find_studies, study_id_of

    roots = []
    for path in arguments:
        if path.suffix == ".txt" and path.is_file():
            roots += [Path(line.strip()) for line in path.read_text().splitlines() if line.strip()]
        else:
            roots.append(path)
    paths = list(dict.fromkeys(p for root in roots for p in find_studies(root)))
    twice = [n for n, count in collections.Counter(map(study_id_of, paths)).items() if count > 1]
    if twice:
        many = f"several studies are called {', '.join(twice[:3])}{' …' if len(twice) > 3 else ''}"
        if distinct:
            raise InputError(f"{many}, so --resume cannot tell which of them are measured")
        log.warning("%s; their rows are told apart by their order alone", many)
    return paths


def ahead(read: Callable, paths: list[Path], workers: int) -> Iterator[Callable]:
    """`read` of each path, in order, by threads that stay a few studies ahead; what it raises comes when called."""
    with ThreadPoolExecutor(workers) as pool:
        queue: collections.deque = collections.deque()
        for path in paths:
            queue.append(pool.submit(read, path))
            if len(queue) > 2 * workers:
                yield queue.popleft().result
        while queue:
            yield queue.popleft().result


def rows_of(table: Path, columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The whole rows of an earlier run's table; a last line that was cut off is measured again."""
    try:
        with table.open(newline="") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != columns:
                raise InputError(f"--resume: {table} has other columns than this version writes")
            return {row["study_id"]: row for row in reader if None not in row.values() and None not in row}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--resume: {table} cannot be read ({one_line(error)})") from None


def table_of(rows: Iterable[dict[str, str]], columns: tuple[str, ...]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def phases_of(table: Path | None) -> dict[str, tuple[int, int]]:
    """study_id → (ED, ES). Raises InputError in one line."""
    if table is None:
        return {}
    try:
        with table.open(newline="") as stream:
            return {row["study_id"]: (int(row["ed"]), int(row["es"])) for row in csv.DictReader(stream)}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"--frames: {table} is no table of study_id, ed and es ({one_line(error)})") from None


def patients_of(table: Path | None) -> dict[str, dict[str, float]]:
    """study_id → what is known of its patient, by the fields of `Patient`. Raises InputError in one line."""
    if table is None:
        return {}
    fields = [field.name for field in dataclasses.fields(Patient)]
    try:
        with table.open(newline="") as stream:
            return {row["study_id"]: {f: float(row[f]) for f in fields if row.get(f)} for row in csv.DictReader(stream)}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"--patients: {table} is no table of study_id, {', '.join(fields)} ({one_line(error)})"
                         ) from None
