"""Every figure that the README gives of a machine, in one go; made for a node with a GPU.

    python benchmarks/machine.py --preset large --data acdc:train --data-dir data --out benchmarks/results/h100

One file a measurement, as `cardiojax bench` writes it, each beside PyTorch's best (bf16, channels-last, torch.compile)
where `--peer torch` says so; and summary.json: the largest batch that a device holds, model-FLOPs utilisation, the
hours that the paper's cohort of 22,653 studies would take, SFERA's latency. What is there already stays.
`--preset tiny --rounds 1` tries all of it on any machine, in a quarter of an hour on 2 cores.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax

from cardiojax.bench import measure
from cardiojax.bench.workloads import Spec
from cardiojax.cli.bench import device_name
from cardiojax.cli.bench import main as bench
from cardiojax.config import EXPERIMENT_PRESETS
from cardiojax.errors import InputError
from cardiojax.files import write_text
from cardiojax.provenance import commit

COHORT = EXPERIMENT_PRESETS["large"].synthetic
IMAGES_A_STUDY = 20        # 10 slices at ED and ES
DTYPES = ["--dtypes", "float32", "bfloat16"]
MEASUREMENTS = {
    "train_gaugan": ["train", "--task", "gaugan", *DTYPES],
    "generate": ["generate", *DTYPES],
    "train_sfera": ["train", "--task", "sfera", *DTYPES],
    "predict": ["predict", *DTYPES],
    "latency": ["predict", "--batch", "1", *DTYPES],
    "input_gaugan": ["input", "--task", "gaugan"],
    "input_sfera": ["input", "--task", "sfera"],
    "scaling_gaugan": ["scaling", "--task", "gaugan"],
    "scaling_sfera": ["scaling", "--task", "sfera"],
}


def largest_batch(spec: Spec, most: int) -> list[dict]:
    """Throughput at 1, 2, 4 … times the preset's batch, up to the first that does not fit."""
    found, batch = [], spec.config.batch
    while batch <= most:
        try:
            side, = measure.measured([dataclasses.replace(spec, batch=batch)], 3, lambda side: None)
        except InputError as error:
            return [*found, {"batch": batch, "failed": str(error)[-300:]}]
        found += [row for row in side.rows() if not row["what"].endswith(" call")]
        batch *= 2
    return found


def value(rows: list[dict], what: str, unit: str) -> dict[str, float]:
    """Our figures of a measurement, by type."""
    return {r["dtype"]: r["value"] for r in rows
            if (r["what"], r["unit"], r["impl"]) == (what, unit, "cardiojax")}


def summary(results: dict[str, list[dict]]) -> dict:
    made = value(results["generate"], "generate gaugan", "images/s")
    return {"model_flops_utilisation": {name: value(results[name], f"{what} model-FLOPs utilisation", "of peak")
                                        for name, what in (("train_gaugan", "train gaugan"),
                                                           ("train_sfera", "train sfera"))},
            "cohort_hours": {dtype: COHORT * IMAGES_A_STUDY / rate / 3600 for dtype, rate in made.items()},
            "latency_ms": value(results["latency"], "predict sfera call", "ms")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="large", choices=["paper", "large", "small", "tiny"])
    parser.add_argument("--data", default="", help="NAME:SPLIT; phantom studies by default")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--peer", default="none", choices=["none", "torch"])
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--most", default=4096, type=int, help="the largest batch to try")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = {}
    for name, arguments in MEASUREMENTS.items():
        file = args.out / f"{name}.json"
        if not file.exists():
            print(f"— {name}", flush=True)
            own = [] if name.startswith("scaling") else ["--data", args.data, "--data-dir", args.data_dir]
            if args.peer == "torch" and name in ("train_gaugan", "generate", "train_sfera", "predict", "latency"):
                own += ["--peer", "torch", "--compile-peer"]
            bench([*arguments, *own, "--preset", args.preset, "--rounds", str(args.rounds), "--json", str(file)])
        results[name] = json.loads(file.read_text())["rows"]
    found = summary(results) | {"largest_batch": {
        f"{task} {dtype}": largest_batch(Spec("train", task, args.preset, dtype=dtype), args.most)
        for task in ("gaugan", "sfera") for dtype in ("float32", "bfloat16")}}
    write_text(args.out / "summary.json", json.dumps(
        {"device": device_name(jax.devices()[0].device_kind), "devices": len(jax.devices()), "preset": args.preset,
         "commit": commit(), **found}, indent=2))
    print(args.out / "summary.json")


if __name__ == "__main__":
    main()
