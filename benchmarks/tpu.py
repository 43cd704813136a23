"""What a training step costs on TPUs, by their own compiler: every task and preset, for eight chips and for more.

    python benchmarks/tpu.py --json benchmarks/results/tpu_compiled.json       # pip install 'cardiojax[tpu]'

No TPU is needed, and nothing is run. Each step is compiled by a process of its own, since what ends the compiler ends
its process; its row says so. Rows that are there already stay.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from cardiojax.bench.ours import task_of
from cardiojax.bench.workloads import Spec, split_of
from cardiojax.files import write_text
from cardiojax.provenance import commit
from cardiojax.train.dry_run import cost, topology_devices
from cardiojax.train.parallel import Parallel

TASKS = ("sfera", "contours", "gaugan")
PRESETS = {"large": "bfloat16", "paper": "bfloat16", "small": "float32", "tiny": "float32"}     # and their type here
TOPOLOGIES = ("v5e:2x4", "v5e:8x8")


def row_of(task: str, preset: str, topology: str, batch: int) -> dict:
    devices = topology_devices(topology)
    spec = Spec("train", task, preset, batch=batch * len(devices), dtype=PRESETS[preset], devices=len(devices))
    training = task_of(spec, split_of(spec))
    found = cost(Parallel(training, devices=devices), jax.eval_shape(training.init, jax.random.key(0)),
                 next(training.batches(0, devices=len(devices))))
    return {"chips": len(devices), "kind": devices[0].device_kind, "dtype": spec.dtype, "batch_a_chip": batch,
            **{name: value for name, value in dataclasses.asdict(found).items() if name != "compile_s"}}


def compiled(case: tuple[str, str, str, int]) -> dict:
    """By another process."""
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, "--one", *map(str, case)], capture_output=True,
                          text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    return {"failed": f"exit {done.returncode}", "said": " ".join(said)[:300]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--presets", nargs="*", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--topologies", nargs="*", default=TOPOLOGIES)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(row_of(*args.one[:3], int(args.one[3]))))
        return
    if args.json is None:
        parser.error("--json is needed")
    result = json.loads(args.json.read_text()) if args.json.exists() else {"rows": {}}
    for topology in args.topologies:
        for preset in args.presets:
            for task in (task for task in args.tasks if (task, preset) != ("contours", "paper")):     # there is none
                name = f"{task} {preset} {topology}"
                if "gflop" in result["rows"].get(name, {}):
                    continue
                row = compiled((task, preset, topology, Spec("train", task, preset).config.batch))
                result |= {"jax": jax.__version__, "commit": commit(), "rows": {**result["rows"], name: row}}
                write_text(args.json, json.dumps(result, indent=1))
                print(name, row, flush=True)


if __name__ == "__main__":
    main()
