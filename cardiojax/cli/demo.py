"""`cardiojax demo`: a patient as a scanner leaves one, measured; what that gives, and where to look."""

import csv
import dataclasses
import shutil
from pathlib import Path

import tyro

SHOWN = ("edv_ml", "esv_ml", "sv_ml", "ef_percent", "lv_mass_g", "rv_ef_percent")


@dataclasses.dataclass(frozen=True)
class Demo:
    """Write a phantom patient as raw DICOM (a short-axis cine among long axes and scouts, one file cut off) and measure
    the folder with the model that ships: a table, a page to look at, masks. Needs no data and no training.
    """

    out: Path = Path("runs/demo")
    """Folder for the patient and the results."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Demo, args=argv, prog="cardiojax demo")
    from cardiojax.cli.evaluate import show
    from cardiojax.cli.predict import main as predict
    from cardiojax.phantom.dicom import write_exam

    exam, table, report = args.out / "patient", args.out / "volumes.csv", args.out / "report"
    shutil.rmtree(exam, ignore_errors=True)
    files = write_exam(exam)
    print(f"{exam}: {files} DICOM files of a phantom, in {len(list(exam.iterdir()))} series")
    if code := predict([str(exam), "--csv", str(table), "--report", str(report), "--masks", str(args.out / "masks")]):
        return code
    row, = csv.DictReader(table.open())
    show([["", *SHOWN], [row["study_id"], *(with_deviation(row, name) for name in SHOWN)]], "measured")
    print(f"""look at       {report / 'index.html'}
your own      cardiojax predict FOLDER --csv volumes.csv --report report""")
    return 0


def with_deviation(row: dict[str, str], name: str) -> str:
    amount, unit = name.rsplit("_", 1)
    deviation = row.get(f"{amount}_std_{unit}")
    return f"{float(row[name]):.0f}" + (f" ± {float(deviation):.0f}" if deviation else "")
