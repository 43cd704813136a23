"""`cardiojax predict`: studies on disk → a CSV of volumes, and what goes with it."""

import contextlib
import csv
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.progress import Progress
from tyro.conf import Positional

from cardiojax.cli.outputs import CURVE_COLUMNS, Outputs
from cardiojax.cli.shares import Parts, Process, Processes, how_many, own_number, take_part
from cardiojax.cli.studies import ahead, check_names, found
from cardiojax.cli.tables import patients_of, phases_of, rows_of
from cardiojax.errors import InputError, StudyError, one_line
from cardiojax.study import Cine, Study

if TYPE_CHECKING:
    from cardiojax.models.measuring import MeasuringModel
    from cardiojax.models.prediction import Prediction

log = logging.getLogger("cardiojax")

Read = Callable[[Path], Study | Cine]


@dataclasses.dataclass(frozen=True)
class Predict:
    """Measure studies: DICOM folders, UK Biobank zips, 4D NIfTI, NIfTI ED/ES pairs, ACDC patients, or trees, zips and
    tars of them.

    Of mixed DICOM series the short-axis cine is found by its geometry. In a whole cine, contours find ED and ES by the
    volume of every phase; for a SFERA ED is the first phase and ES the one that differs most from it. Phases that are
    named are taken as they are. A study that cannot be read is named with its reason; the others are still measured,
    and the exit code is 1. `refer` is 1 where a person should look, for the `reasons` beside it.

    Many processes share the studies: start the same command on each (`srun cardiojax predict …`, or with --processes N
    and --process 0 … N − 1), on a common file system. The last one to end writes the table; after a process was lost,
    the same with --resume.
    """

    studies: Positional[tuple[Path, ...]]
    """Studies, trees or archives of them, or text files (.txt) with a path a line."""
    csv: Path
    """The table to write, one row a study."""
    run: Path = Path("contours-small")
    """What measures: a model that ships, by its name (`cardiojax models`), a finished run folder, or a file that
    `cardiojax export` wrote (also hf://OWNER/REPOSITORY/FILE)."""
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
    report: Path | None = None
    """Folder for a page a study (index.html: all of them, those to look at first): numbers, every slice with the
    contours that a contours run sees, the volume curve, what was left out. Each file stands for itself."""
    masks: Path | None = None
    """Folder for the masks that a contours run sees at ED and ES: NIfTI label images (1 LV, 2 myocardium, 3 RV) on the
    pixels of the input."""
    every_phase: bool = False
    """With --masks: those of every phase of a cine, too."""
    dicom: Path | None = None
    """Folder for DICOM SEG (the masks) and SR (the numbers, TID 1500) of studies that were DICOM:
    pip install 'cardiojax[dicom]'."""
    curves: Path | None = None
    """CSV for the volumes of every phase of every cine that a contours run has measured."""
    figures: Path | None = None
    """Folder for a picture of each study: its slices at ED and ES (with contours, and the volume curve of a cine, by a
    contours run), and the numbers."""
    workers: int = 4
    """Studies that are read at a time."""
    process: Process = dataclasses.field(default_factory=own_number)
    """Which of the processes this is, from 0."""
    processes: Processes = dataclasses.field(default_factory=how_many)
    """How many processes share the studies."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Predict, args=argv, prog="cardiojax predict")
    if not args.studies:
        raise InputError("no study given")
    if (args.ed is None) != (args.es is None):
        raise InputError("--ed and --es go together")
    take_part(args.process, args.processes)
    from cardiojax.models import load_measuring

    model = load_measuring(args.run)
    for name in ("masks", "curves"):
        if getattr(args, name) and not model.sees_masks:
            raise InputError(f"--{name}: {args.run} does not see masks; a contours run does")
    read = reader(args, every_phase=model.sees_masks)
    return measure(args, read, model) if args.processes == 1 else measure_share(args, read, model)


def measure_share(args: Predict, read: Read, model: "MeasuringModel") -> int:
    """This process's part of the table, and the whole one where all have ended; the exit code of its own."""
    from cardiojax.models.prediction import COLUMNS
    from cardiojax.readers import study_id_of

    parts = Parts(args)
    elsewhere = rows_of(args.csv, COLUMNS) if args.resume and args.csv.exists() else {}
    own = parts.begin()
    try:
        return measure(own, read, model, elsewhere, parts.end)
    finally:                                            # the others' studies may be fine where none of these is
        if parts.ended():
            parts.join(COLUMNS, CURVE_COLUMNS, {study_id_of(p): i for i, p in enumerate(found(args.studies))})


def measure(args: Predict, read: Read, model: "MeasuringModel", elsewhere: Collection[str] = (),
            ended: Callable[[list[str]], object] = lambda failed: None) -> int:
    """The table and what goes with it; the exit code. elsewhere: studies that another table holds already; ended: is
    told which studies failed."""
    from cardiojax.files import one_writer

    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if args.csv.is_file() or not args.csv.exists():            # no terminal, no pipe
            stack.enter_context(one_writer(args.csv.with_name(f"{args.csv.name}.lock"),
                                           f"another process is writing {args.csv}"))
        rows, before, failed, complete = written(args, read, model, elsewhere)
        ended(failed)
    if failed and not rows and not elsewhere:
        raise InputError(f"none of {len(failed)} studies could be measured: {failed[0]}")
    log.info("%d studies measured%s, %d failed: %s", len(rows) - before, f", {before} before" if before else "",
             len(failed), args.csv)
    return 0 if complete and not failed else 1


def written(args: Predict, read: Read, model: "MeasuringModel", elsewhere: Collection[str]
            ) -> tuple[list[dict[str, str]], int, list[str], bool]:
    """The rows of the table, how many of them were there before, which studies failed, and whether all that goes with
    the table could be written."""
    from cardiojax.files import write_rows
    from cardiojax.models.prediction import COLUMNS

    before = rows_of(args.csv, COLUMNS) if args.resume and args.csv.exists() else {}
    if before:                                          # whole, should this process end here
        write_rows(args.csv, [COLUMNS, *([row[column] for column in COLUMNS] for row in before.values())])
    rows, failed, outputs = list(before.values()), [], Outputs(args, before)
    with args.csv.open("a" if before else "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if not before:
            writer.writeheader()
            stream.flush()
        for prediction in every_study(args, read, model, {*before, *elsewhere}):
            if isinstance(prediction, str):
                failed.append(prediction)
                log.error("%s", prediction)
                continue
            outputs.write(prediction)                   # first: a study with a row is not measured again
            rows.append(prediction.row())
            writer.writerow(rows[-1])
            stream.flush()
    outputs.close(rows, failed)
    return rows, len(before), failed, not outputs.missing


def reader(args: Predict, every_phase: bool) -> Read:
    """Reads a study with the phases and the patient that the arguments name; a whole cine where they name none and
    `every_phase` is wanted."""
    from cardiojax.preparation import prepare
    from cardiojax.readers import read_cine, read_study, study_id_of

    named, patients = phases_of(args.frames), patients_of(args.patients)
    given = None if args.ed is None or args.es is None else (args.ed, args.es)

    def read(path: Path) -> Study | Cine:
        phases = named.get(study_id_of(path), given)
        study = read_cine(path, args.series) if every_phase and not phases else read_study(path, phases, args.series)
        if known := patients.get(study_id_of(path)):
            study = dataclasses.replace(study, patient=dataclasses.replace(study.patient, **known))
        return study if isinstance(study, Cine) else prepare(study)

    return read


def every_study(args: Predict, read: Read, model: "MeasuringModel", before: Iterable[str]
                ) -> "Iterator[Prediction | str]":
    """What was measured of each study but those `before`, or why not, in order; archives one after the other."""
    from cardiojax.readers import study_id_of
    from cardiojax.readers.archive import is_archive, unpacked

    paths, archives = found(args.studies)[args.process::args.processes], []
    for path in list(paths):
        if is_archive(path):
            archives.append(path)
            paths.remove(path)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("studies", total=0, visible=False)

        def those_of(paths: list[Path]) -> "Iterator[Prediction | str]":
            check_names(paths, args.resume)
            todo = [p for p in paths if study_id_of(p) not in before]
            total = (progress.tasks[0].total or 0) + len(todo)
            progress.update(bar, total=total, visible=total > 1)
            for result in measured(todo, read, model, max(1, args.workers)):
                progress.advance(bar)
                yield result

        yield from those_of(paths)
        for archive in archives:
            try:
                with unpacked(archive) as folder:
                    yield from those_of(found([folder]))
            except StudyError as error:
                yield str(error)


def measured(paths: list[Path], read: Callable[[Path], Study | Cine], model: "MeasuringModel", workers: int
             ) -> "Iterator[Prediction | str]":
    """What was measured of each study, or why not, in order; on all accelerators by turns."""
    from cardiojax.ops.devices import by_turns

    def one(which: int, item: tuple[Path, Callable]) -> "Prediction | str":
        path, ready = item
        try:
            return model.replicas[which].predict(ready())
        except StudyError as error:
            return str(error)
        except Exception as error:                      # of a thousand studies none may end the others
            log.debug("", exc_info=True)
            return f"{path}: {one_line(error)} (not foreseen: please report it)"

    return by_turns(one, zip(paths, ahead(read, paths, workers), strict=True), len(model.replicas))
