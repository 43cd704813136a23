"""ED and ES of cines, with and without contours, against what people marked:

    python benchmarks/ed_es.py --cines FOLDER --run RUN --json FILE

FOLDER has truth.csv (study, format, ed_phase, es_phase, ef_percent) and the cines beside it, DICOM folders or a folder
with one 4D NIfTI. Each cine is measured as it starts, and once more from the middle of its cycle. --spacing: ACDC's
`training`, for cut cines whose headers lack the spacing.
"""

import csv
import dataclasses
import json
import logging
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import tyro

from cardiojax import load
from cardiojax.cli.bench import device_name
from cardiojax.models.curve import found_phases
from cardiojax.provenance import commit
from cardiojax.readers import read_dicom_cine, read_nifti_phases
from cardiojax.readers.cycle import ed_es_phases
from cardiojax.study import Cine


@dataclasses.dataclass(frozen=True)
class Options:
    cines: Path
    json: Path
    run: Path | None = None
    """A contours run."""
    spacing: Path | None = None


def main(options: Options):
    logging.getLogger("cardiojax").setLevel(logging.ERROR)
    model, rows = None if options.run is None else load(options.run), []
    for truth in csv.DictReader((options.cines / "truth.csv").open()):
        cine = read(options.cines / truth["study"], options.spacing)
        phases, marked = cine.frames.shape[-1], (int(truth["ed_phase"]), int(truth["es_phase"]))
        for start in (0, phases // 2):
            rolled = dataclasses.replace(cine, frames=np.roll(cine.frames, -start, axis=-1))
            expected = [(n - 1 - start) % phases for n in marked]
            found = {"rule": ed_es_phases(np.asarray(rolled.frames, np.float32).transpose(0, 3, 1, 2))}
            row = {"study": truth["study"], "phases": phases, "start": start, "marked": expected}
            if model is not None:
                began = time.perf_counter()
                found["contours"] = tuple(n - 1 for n in found_phases(model.curve(rolled).lv_ml))
                if not start:
                    ef = model.predict(rolled).ef_percent
                    row |= {"ef_percent": round(ef, 2), "seconds": round(time.perf_counter() - began, 2),
                            "ef_percent_marked": float(truth["ef_percent"]) if truth["ef_percent"] else None}
            rows.append({**row, **{name: {"phases": [int(n) for n in pair], "away": [
                away(a, b, phases) for a, b in zip(pair, expected, strict=True)]} for name, pair in found.items()}})
            print(json.dumps(rows[-1]), flush=True)
    trained_on = None if model is None else model.settings["data"]["training"]
    result = {"device": device_name("cpu"), "commit": commit(), "trained_on": trained_on,
              "cines": rows, "within_one": {
                  f"{name}, {'as recorded' if not late else 'from mid-cycle'}": within_one(rows, name, late)
                  for name in ("rule", "contours") if name in rows[0] for late in (False, True)}}
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["within_one"], indent=2))


def read(path: Path, spacing: Path | None) -> Cine:
    files = sorted(path.glob("*_4d.nii.gz"))
    if not files:
        return read_dicom_cine(path)
    cine = read_nifti_phases(files[0], path.name)
    if spacing is None:
        return cine
    x_mm, y_mm, z_mm = nib.load(sorted((spacing / path.name).glob("*_frame??.nii.gz"))[0]).header.get_zooms()[:3]
    return dataclasses.replace(cine, slice_spacing_mm=float(z_mm), pixel_spacing_mm=(float(y_mm), float(x_mm)))


def away(found: int, expected: int, phases: int) -> int:
    """Phases between the two, round the cycle."""
    return min((found - expected) % phases, (expected - found) % phases)


def within_one(rows: list[dict], name: str, late: bool) -> dict[str, str]:
    chosen = [row[name]["away"] for row in rows if bool(row["start"]) == late]
    return {frame: f"{sum(a[k] <= 1 for a in chosen)} of {len(chosen)}" for k, frame in enumerate(("ED", "ES"))}


if __name__ == "__main__":
    main(tyro.cli(Options))
