"""How far a split's own masks are from its volumes. No bound: what is trained on the volumes may be nearer.

    python benchmarks/of_masks.py --data kaggle_dsb:test --data-dir data --json FILE
"""

import argparse
import json
from pathlib import Path

import numpy as np

from cardiojax import data
from cardiojax.evaluate.metrics import Accumulator
from cardiojax.files import write_text
from cardiojax.units import lv_area_mm2


def main():
    parser = argparse.ArgumentParser(description="Volumes of a split's masks beside the split's own.")
    parser.add_argument("--data", required=True, help="NAME:SPLIT of studies with masks and volumes")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    split, result = data.open_split(args.data, args.data_dir), Accumulator(np.full(3, np.nan))
    for study in (split[i] for i in range(len(split))):
        if study.masks is not None and study.volumes_ml is not None:
            areas = lv_area_mm2(study.masks, study.pixel_spacing_mm)
            result.add(areas.sum(axis=0, keepdims=True) * study.slice_spacing_mm / 1000, study.volumes_ml[None])
    found = {name: {k: v for k, v in values.items() if k != "rmse_mean_predictor"}
             for name, values in result.result().items()}
    write_text(args.json, json.dumps({"data": args.data, "n": len(result.truth), **found}, indent=1))
    print(", ".join(f"{name} RMSE {values['rmse']:.1f}" for name, values in found.items()))


if __name__ == "__main__":
    main()
