"""What `cardiojax predict` writes of each study beside its row."""

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cardiojax.errors import StudyError

if TYPE_CHECKING:
    from cardiojax.cli.predict import Predict
    from cardiojax.models.prediction import Prediction

log = logging.getLogger("cardiojax")


class Outputs:
    """What is written of each study beside its row."""

    def __init__(self, args: "Predict", new: bool):
        """new: whether --curves begins with its header."""
        self.args, self.new, self.said = args, new, None
        self.missing: list[str] = []       # what was asked for and could not be written
        if args.dicom:
            from cardiojax.writers import dicom  # noqa: F401  says what is missing before anything is measured
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
            add_curve(args.curves, prediction, self.new)
            self.new = False
        if args.figures:
            from cardiojax.evaluate.figures import contact_sheet
            contact_sheet(prediction, args.figures)
        if args.report and self.said:
            from cardiojax.writers.page import write_page
            write_page(prediction, args.report, self.said.of(prediction.study_id))

    def close(self, rows: list[dict[str, str]], failed: list[str]):
        """The index of the report."""
        if self.args.report and self.said:
            from cardiojax.writers.page import write_index
            log.removeHandler(self.said)
            log.info("report: %s", write_index(rows, failed, self.args.report))


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
