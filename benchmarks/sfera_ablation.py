"""What helps SFERA learn from few studies: the same short training with one thing changed at a time.

    python benchmarks/sfera_ablation.py --data-dir data --json benchmarks/results/sfera_ablation.json

Needs `cardiojax build kaggle_dsb`. Each variant is a resumable run folder below --runs.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax

import cardiojax
from cardiojax.config import SFERA_PRESETS, SferaConfig
from cardiojax.data import open_split
from cardiojax.evaluate import report
from cardiojax.provenance import commit
from cardiojax.train import sfera


def variants(steps: int) -> dict[str, SferaConfig]:
    full = dataclasses.replace(SFERA_PRESETS["small"], steps=steps, evaluate_every=steps)
    final = dataclasses.replace(full.net, readout="final")
    mild = dataclasses.replace(full.augment, rotation_deg=15.0, flip=False, reverse=False)
    return {
        "small": full,
        "volumes only (no slice areas)": dataclasses.replace(full, area_weight=0.0),
        "volumes only, final LSTM states (paper)": dataclasses.replace(full, area_weight=0.0, net=final),
        "one view instead of eight": dataclasses.replace(full, views=1),
        "mild augmentation": dataclasses.replace(full, augment=mild),
        "no weight average": dataclasses.replace(full, ema=0.0),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--data", default="kaggle_dsb")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    found = json.loads(args.json.read_text())["rows"] if args.json.exists() else {}
    for name, config in variants(args.steps).items():
        if name in found or (args.only and name not in args.only):
            continue
        run = args.runs / name.replace(" ", "_")
        sfera.train(config, preset="small", training=f"{args.data}:train", validation=None, data_dir=args.data_dir,
                    run=run)
        result = report.evaluate(cardiojax.load(run), open_split(f"{args.data}:test", args.data_dir), run / "test")
        found[name] = {k: {m: result[k][m] for m in ("rmse", "rmse_mean_predictor", "r")} for k in ("edv", "esv", "ef")}
        args.json.write_text(json.dumps({
            "device": jax.devices()[0].device_kind, "data": f"{args.data}:test", "n": result["n"],
            "steps": args.steps, "seed": 0, "commit": commit(), "rows": found}, indent=2))
        print(name, {k: round(v["rmse"] / v["rmse_mean_predictor"], 2) for k, v in found[name].items()})


if __name__ == "__main__":
    main()
