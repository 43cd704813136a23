"""`cardiojax evaluate`: a run against the truth of a split."""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Predict every study of a split and compare with its known volumes.

    Writes metrics.json, predictions.csv, scatter.png, bland_altman.png and report.html into OUT, and prints the
    errors beside those of predicting the training mean.
    """

    run: Path
    """A finished run folder."""
    data: str
    """NAME:SPLIT, for example kaggle_dsb:test."""
    data_dir: Path
    """Where `cardiojax build` has put the records."""
    out: Path
    """Folder for the results."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Evaluate, args=argv, prog="cardiojax evaluate")
    import cardiojax
    from cardiojax.data import open_split
    from cardiojax.evaluate import report

    result = report.evaluate(cardiojax.load(args.run), open_split(args.data, args.data_dir), args.out)
    show(report.table(result), f"{args.data}, {result['n']} studies")
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
