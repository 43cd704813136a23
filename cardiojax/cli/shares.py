"""One command's work shared by several processes, each with its number: from srun, from Open MPI, or by hand."""

import csv
import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from cardiojax.errors import InputError
from cardiojax.files import text_of, write_rows, write_text
from cardiojax.train.launchers import keep_to_own_gpus, launched, warn_without_srun

if TYPE_CHECKING:
    from cardiojax.cli.predict import Predict

log = logging.getLogger("cardiojax")

Process = Annotated[int, arg(help_behavior_hint="(default: as srun or Open MPI say, or 0)")]
Processes = Annotated[int, arg(help_behavior_hint="(default: as srun or Open MPI say, or 1)")]


def own_number() -> int:
    return found.process if (found := launched()) else 0


def how_many() -> int:
    return found.processes if (found := launched()) else 1


def take_part(process: int, processes: int):
    """Hide the GPUs of the launcher's other processes from this one, before JAX looks. Raises InputError where it is
    none of them."""
    if not 0 <= process < processes:
        raise InputError(f"--process {process} is not one of {processes} (0 … {processes - 1})")
    if (found := launched()) is None:
        warn_without_srun()
    else:
        keep_to_own_gpus(found)


class Parts:
    """What the processes of one `predict` write until all of them have ended: a folder beside its table."""

    def __init__(self, args: "Predict"):
        self.args = args
        self.folder = args.csv.with_name(f"{args.csv.name}.parts-of-{args.processes}")
        self.own = self.folder / str(args.process)

    def begin(self) -> "Predict":
        """The arguments with tables of this process's own. Raises InputError where an earlier start has left some."""
        if self.own.exists() and not self.args.resume:
            raise InputError(f"{self.own} is what an earlier start has left: go on with --resume, or remove "
                             f"{self.folder}")
        self.own.mkdir(parents=True, exist_ok=True)
        self._end_of(self.args.process).unlink(missing_ok=True)
        return dataclasses.replace(self.args, csv=self.own / "volumes.csv",
                                   curves=self.args.curves and self.own / "curves.csv")

    def end(self, failed: Sequence[str]):
        """This process has done its share."""
        write_text(self._end_of(self.args.process), json.dumps(failed))

    def ended(self) -> bool:
        """Whether all have."""
        return all(self._end_of(i).exists() for i in range(self.args.processes))

    def join(self, columns: Sequence[str], curve_columns: Sequence[str], position: Mapping[str, int]):
        """The parts as the tables (and the report's index) that one process would have written; the last that has ended
        does it. position: of each study in their order; those of archives, which it lacks, come after them."""
        args = self.args
        try:
            failed = [line for i in range(args.processes) for line in json.loads(self._end_of(i).read_text())]
            rows = self._joined(args.csv, "volumes.csv", columns, position, key=1)
            if args.curves:
                self._joined(args.curves, "curves.csv", curve_columns, position, key=2)
        except FileNotFoundError:                          # another has ended at the same time, and was first
            return
        if args.report:
            from cardiojax.writers.page import write_index
            log.info("report: %s", write_index([dict(zip(columns, row, strict=True)) for row in rows], failed,
                                               args.report))
        shutil.rmtree(self.folder, ignore_errors=True)
        log.info("%d studies of all %d processes: %s", len(rows), args.processes, args.csv)

    def _end_of(self, process: int) -> Path:
        return self.folder / str(process) / "failed.json"

    def _joined(self, table: Path, name: str, columns: Sequence[str], position: Mapping[str, int], key: int
                ) -> list[list[str]]:
        """The first `key` columns name a row: of two that end at once the second finds rows in the table already."""
        rows = []
        for file in [table] * (self.args.resume and table.exists()) + [
                self.folder / str(i) / name for i in range(self.args.processes)]:
            with file.open(newline="") as stream:
                rows += list(csv.reader(stream))[1:]
        rows = [*{tuple(row[:key]): row for row in rows}.values()]
        rows.sort(key=lambda row: position.get(text_of(row[0]), len(position)))
        table.parent.mkdir(parents=True, exist_ok=True)
        write_rows(table, [columns, *rows])
        return rows
