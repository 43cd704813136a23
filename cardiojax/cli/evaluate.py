"""`cardiojax evaluate`: a run against the truth of a split."""

import dataclasses
import logging
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from cardiojax.cli.shares import Process, Processes, how_many, own_number, take_part
from cardiojax.errors import InputError

log = logging.getLogger("cardiojax")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a run on a split; OUT gets metrics.json, report.html and pictures.

    Contours or a SFERA predict every study: their errors stand beside those of predicting the training mean (and
    predictions.csv in OUT), and contours beside the studies' own masks (Dice, 95 % Hausdorff distance). A GauGAN makes
    images of every mask, and --judge, a model trained on real images, says how far they are from the real ones of the
    same patients, above all in the volumes it reads from both; contours say too whether they find the mask again.

    All GPUs of the process are used. Many processes share the studies of contours, a SFERA or a hybrid: start the same
    command on each (`srun cardiojax evaluate …`, or with --processes N and --process 0 … N − 1), on a common file
    system. The last one to end writes the results.
    """

    run: Path
    """A finished run folder."""
    data: str
    """NAME:SPLIT, for example kaggle_dsb:test."""
    data_dir: Path
    """Where `cardiojax build` has put the records."""
    out: Path
    """Folder for the results."""
    judge: Path | None = None
    """For a GauGAN: the run that looks at its images: SFERA, contours or a hybrid."""
    process: Process = dataclasses.field(default_factory=own_number)
    """Which of the processes this is, from 0."""
    processes: Processes = dataclasses.field(default_factory=how_many)
    """How many processes share the studies."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Evaluate, args=argv, prog="cardiojax evaluate")
    take_part(args.process, args.processes)
    import cardiojax
    from cardiojax.data import open_split
    from cardiojax.evaluate import report
    from cardiojax.evaluate.overlap import rows_of_masks
    from cardiojax.models.gaugan import GauganModel

    run = cardiojax.load(args.run)
    if isinstance(run, GauganModel):
        if args.judge is None:
            raise InputError(f"{args.run} is a GauGAN: name a SFERA, contours or hybrid run trained on real images "
                             "with --judge")
        if args.processes > 1:
            raise InputError("a GauGAN's images are compared with each other, by one process on all of its GPUs")
        split = open_split(args.data, args.data_dir, need_volumes=False)
        result = report.judge(run, args.judge, split, args.out)
        rows = report.judgement(result)
    elif args.judge is not None:
        raise InputError(f"{args.run} predicts volumes, which need no judge; --judge is for a GauGAN's images")
    else:
        result = report.evaluate(run, open_split(args.data, args.data_dir), args.out, args.process, args.processes)
        if result is None:
            log.info("process %d of %d is done; the last one writes %s", args.process, args.processes, args.out)
            return 0
        rows = report.table(result)
        if "masks" in result:
            show(rows_of_masks(result), f"{args.data}, masks")
    show(rows, f"{args.data}, {result['n']} studies")
    print(f"report: {args.out / 'report.html'}")
    return 0


def show(rows: list[list[str]], title: str):
    """Rows of text as a table on stdout, the first being the header."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=110, highlight=False).print(table)
