"""What `cardiojax predict` writes of each study beside its row."""

import csv
import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from cardiojax.errors import StudyError
from cardiojax.files import cell, text_of, write_rows

if TYPE_CHECKING:
    from cardiojax.cli.predict import Predict
    from cardiojax.models.prediction import Prediction

log = logging.getLogger("cardiojax")

CURVE_COLUMNS = ("study_id", "phase", "time_ms", "lv_ml", "myocardium_ml", "rv_ml")


class Outputs:
    """What is written of each study beside its row."""

    def __init__(self, args: "Predict", before: Collection[str]):
        """before: the studies that an earlier process has measured."""
        self.args, self.said = args, None
        self.missing: list[str] = []       # what was asked for and could not be written
        if args.dicom:
            from cardiojax.writers import dicom  # noqa: F401  says what is missing before anything is measured
        if args.curves:
            begin_curves(args.curves, before)
        if args.report:
            from cardiojax.writers.page import Said
            self.said = Said()
            log.addHandler(self.said)

    def write(self, prediction: "Prediction"):
        args = self.args
        if args.masks:
            from cardiojax.writers.nifti import write_masks
            write_masks(prediction, args.masks, args.every_phase)
        if args.dicom:
            from cardiojax.writers.dicom import write_objects
            try:
                write_objects(prediction, args.dicom)
            except StudyError as error:
                self.missing.append(str(error))
                log.error("%s", error)
        if args.curves and prediction.curve is not None:
            add_curve(args.curves, prediction)
        if args.figures:
            from cardiojax.evaluate.figures import contact_sheet
            contact_sheet(prediction, args.figures)
        if args.report and self.said:
            from cardiojax.writers.page import write_page
            write_page(prediction, args.report, self.said.of(prediction.study_id))

    def close(self, rows: list[dict[str, str]], failed: list[str]):
        """The index of the report; where several processes share it, they write it when all have ended."""
        if self.said:
            log.removeHandler(self.said)
        if self.args.report and self.args.processes == 1:
            from cardiojax.writers.page import write_index
            log.info("report: %s", write_index(rows, failed, self.args.report))


def begin_curves(table: Path, before: Collection[str]):
    """The table with its header and the rows of the studies that were measured `before`: a process that was killed may
    have left others."""
    rows = []
    if before and table.exists():
        with table.open(newline="") as stream:
            rows = [row for row in list(csv.reader(stream))[1:] if row and text_of(row[0]) in before]
    table.parent.mkdir(parents=True, exist_ok=True)
    write_rows(table, [CURVE_COLUMNS, *rows])


def add_curve(table: Path, prediction: "Prediction"):
    """A row a phase; its time is empty where it is not known."""
    curve = prediction.curve
    assert curve is not None
    with table.open("a", newline="") as stream:
        writer = csv.writer(stream)
        for i, volumes in enumerate(zip(curve.lv_ml, curve.myocardium_ml, curve.rv_ml, strict=True)):
            time_ms = "" if curve.phase_ms is None else f"{curve.phase_ms[i]:.1f}"
            writer.writerow([cell(prediction.study_id), i + 1, time_ms, *(f"{v:.2f}" for v in volumes)])
