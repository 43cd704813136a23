"""Bytes that a data-parallel step sends, out of the compiled program's collectives, and the weak scaling to expect.

    export XLA_FLAGS=--xla_force_host_platform_device_count=8
    python benchmarks/communication.py --task gaugan --step-ms 120 --json benchmarks/results/communication_gaugan.json

--step-ms: a measured step of one device at that batch (`cardiojax bench train`); without it, the step is the
FLOPs of the program for a GPU at --utilisation of an H100's bf16 peak. Nothing is run: shapes are compiled for as many
devices as JAX shows. Ring all-reduce: 2 (n − 1) / n × bytes over the slowest link, and a latency for each collective.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax

from cardiojax.bench.measure import PEAKS
from cardiojax.bench.ours import task_of
from cardiojax.bench.workloads import Spec, split_of
from cardiojax.ops.collectives import collectives
from cardiojax.provenance import commit
from cardiojax.train.parallel import Parallel

# GB/s a GPU in one direction, and seconds of one collective
LINKS = {"8 GPUs by NVLink (450 GB/s each)": (8, 450e9, 15e-6),
         "8 nodes × 8 GPUs by 8 × 400 Gb/s InfiniBand (50 GB/s each)": (64, 50e9, 40e-6)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=["gaugan", "sfera"], default="gaugan")
    parser.add_argument("--preset", default="large")
    parser.add_argument("--batch-per-device", type=int, default=4)
    parser.add_argument("--step-ms", type=float)
    parser.add_argument("--utilisation", type=float, default=0.3)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    devices = len(jax.devices())
    spec = Spec("train", args.task, args.preset, args.batch_per_device * devices, dtype="bfloat16", devices=devices)
    task = task_of(spec, split_of(spec))
    batch = next(task.batches(0, devices=devices))
    parallel, state = Parallel(task), jax.eval_shape(task.init, jax.random.key(0))
    found = collectives(parallel.compiled(state, batch).as_text())
    flops = (parallel.lowered(state, batch, "cuda").cost_analysis() or {}).get("flops", float("nan"))
    seconds = args.step_ms / 1000 if args.step_ms else flops / (
        args.utilisation * PEAKS["NVIDIA H100 80GB HBM3"]["bfloat16"])
    total = {k: sum(c[k] for c in found.values()) for k in ("count", "bytes")}
    rows = {}
    for name, (n, bandwidth, latency) in LINKS.items():
        talk = 2 * (n - 1) / n * total["bytes"] / bandwidth + latency * total["count"]
        rows[name] = {"communication_ms": 1000 * talk, "efficiency_without_overlap": seconds / (seconds + talk),
                      "efficiency_with_overlap": seconds / max(seconds, talk)}
    result = {**{k: v for k, v in vars(args).items() if k != "json"}, "dtype": spec.dtype, "devices_compiled": devices,
              "config": dataclasses.asdict(spec.config)["net"], "collectives": found, "gflop_a_device": flops / 1e9,
              "step_ms": 1000 * seconds, "step_is": "measured" if args.step_ms else "assumed", "links": rows,
              "commit": commit()}
    args.json.write_text(json.dumps(result, indent=2))
    print(json.dumps({k: result[k] for k in ("collectives", "step_ms", "step_is", "links")}, indent=2))


if __name__ == "__main__":
    main()
