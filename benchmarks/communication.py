"""What the GPUs of a data-parallel step send each other, by their own compiler, and the weak scaling to expect.

    python benchmarks/communication.py --task gaugan --step-ms 31.0 --json benchmarks/results/communication_gaugan.json

--step-ms: a measured step of one GPU (`cardiojax bench train`). The step is compiled for eight H200s (`h200.py` says
what that takes), with the compiler's own combining of collectives; nothing is run. Ring all-reduce: 2 (n − 1) / n ×
bytes over the slowest link, and a latency for each collective; nothing of it is taken to be hidden behind the
computation. `cardiojax bench scaling` measures it where there are several.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import h200
import jax

from cardiojax.bench.ours import task_of
from cardiojax.bench.workloads import Spec, split_of
from cardiojax.files import write_text
from cardiojax.ops.collectives import collectives
from cardiojax.provenance import commit
from cardiojax.train.parallel import Parallel

# GPUs, bytes/s a GPU in one direction, seconds of one collective
LINKS = {"8 GPUs by NVLink (450 GB/s each)": (8, 450e9, 15e-6),
         "8 nodes × 8 GPUs by 8 × 400 Gb/s InfiniBand (50 GB/s each)": (64, 50e9, 40e-6)}
COMPILED = 8
PARAMETERS = ("params", "generator", "discriminator")          # of a training's state


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=["gaugan", "sfera", "contours"], default="gaugan")
    parser.add_argument("--preset", choices=["paper", "large", "small", "tiny"], default="large")
    parser.add_argument("--step-ms", type=float, required=True)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    devices = h200.devices(COMPILED)
    each = Spec("train", args.task, args.preset).config.batch
    spec = Spec("train", args.task, args.preset, batch=each * COMPILED, dtype="bfloat16", devices=COMPILED,
                spade="table" if args.task == "gaugan" else "auto")
    task = task_of(spec, split_of(spec))
    parallel, state = Parallel(task, devices=devices), jax.eval_shape(task.init, jax.random.key(0))
    compiled = parallel.compiled(state, next(task.batches(0, devices=COMPILED)))
    found, trained = collectives(compiled.as_text()), [getattr(state, part, None) for part in PARAMETERS]
    count, sent = (sum(c[k] for c in found.values()) for k in ("count", "bytes"))
    links = {}
    for name, (n, bytes_a_second, latency_s) in LINKS.items():
        talk_ms = 1000 * (2 * (n - 1) / n * sent / bytes_a_second + latency_s * count)
        links[name] = {"communication_ms": round(talk_ms, 2),
                       "efficiency": round(args.step_ms / (args.step_ms + talk_ms), 3)}
    result = {"compiled_for": f"{COMPILED} × NVIDIA H200", "task": args.task, "preset": args.preset,
              "dtype": spec.dtype, "batch_a_device": each, "step_ms": args.step_ms, "collectives": found,
              "gradients_mb": round(sum(x.size * 4 for x in jax.tree.leaves(trained)) / 1e6, 1),
              "links": links, "jax": jax.__version__, "commit": commit()}
    write_text(args.json, json.dumps(result, indent=1))
    print(json.dumps({k: result[k] for k in ("collectives", "gradients_mb", "links")}, indent=1))


if __name__ == "__main__":
    main()
