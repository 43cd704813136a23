"""Errors on ACDC by its pathology groups, out of an evaluation's predictions.csv.

    python benchmarks/by_group.py --predictions results/contours/predictions.csv --source ACDC/training --json FILE
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from cardiojax.readers.nifti import acdc_info

NAMES = {"NOR": "no disease", "MINF": "infarction", "DCM": "dilated", "HCM": "hypertrophic", "RV": "abnormal RV"}


def by_group(predictions: Path, source: Path) -> dict[str, dict[str, float]]:
    """Group → n, MAE of EF (points), bias and RMSE of EDV (ml)."""
    with predictions.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    group = {row["study_id"]: acdc_info(source / row["study_id"])["Group"] for row in rows}
    found = {}
    for name in NAMES:
        mine = [row for row in rows if group[row["study_id"]] == name]
        ef, edv = (np.array([float(row[k]) - float(row[f"true_{k}"]) for row in mine])
                   for k in ("ef_percent", "edv_ml"))
        found[name] = {"n": len(mine), "ef_mae_points": float(np.abs(ef).mean()), "edv_bias_ml": float(edv.mean()),
                       "edv_rmse_ml": float(np.sqrt((edv**2).mean()))}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = by_group(args.predictions, args.source)
    print(markdown(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def markdown(found: dict[str, dict[str, float]]) -> str:
    rows = ["| group | n | EF MAE, points | EDV bias, ml | EDV RMSE, ml |", "|---|---|---|---|---|"]
    rows += [f"| {NAMES[name]} ({name}) | {f['n']} | {f['ef_mae_points']:.1f} | {f['edv_bias_ml']:+.1f} | "
             f"{f['edv_rmse_ml']:.1f} |" for name, f in found.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
