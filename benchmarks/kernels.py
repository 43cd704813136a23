"""What a GPU would have to do for a training step, by its own compiler and without a GPU: kernels, bytes, FLOPs.

    python benchmarks/kernels.py --task gaugan --spade dense --json kernels_gaugan_dense.json

Compiled for an H200 (`h200.py` says what that takes). Bytes are what each kernel reads and writes, added up: divided
by the 4.3 TB/s that one copies at, a bound of the step's time. Which algorithm a library takes for a convolution is
tried on a GPU, and not known here.
"""

import argparse
import collections
import json
import math
import os
import re
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import h200
import jax

from cardiojax.bench.ours import task_of
from cardiojax.bench.workloads import Spec, split_of
from cardiojax.files import write_text
from cardiojax.ops.flops import flops
from cardiojax.provenance import commit
from cardiojax.train.parallel import Parallel

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)$")
NO_KERNEL = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")


def size(shape: str) -> int:
    """Bytes of the arrays in an HLO shape."""
    return sum(SIZES.get(kind, 0) * math.prod(int(d) for d in dims.split(",") if d)
               for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shape))


def kernels(hlo: str) -> list[tuple[int, str, str, str]]:
    """(bytes, kind, shape, where it comes from) of each kernel of a scheduled program's entry."""
    known, found = {}, []
    for line in hlo[hlo.index("\nENTRY"):].splitlines():
        if not (match := INSTRUCTION.match(line)):
            continue
        name, shape, operation, operands, rest = match.groups()
        known[name] = size(shape)
        if operation in NO_KERNEL:
            continue
        read = sum(known.get(operand, 0) for operand in set(re.findall(r"%([\w.\-]+)", operands)))
        details = [re.search(pattern, rest) for pattern in (r'custom_call_target="([^"]*)"', r'op_name="([^"]*)"')]
        target, source = (d[1] if d else "" for d in details)
        found.append((read + known[name], target or operation, shape[:60], source[-80:]))
    return sorted(found, reverse=True)


def main():
    parser = argparse.ArgumentParser(description="Kernels, bytes and FLOPs of a step on an H200, without one.")
    parser.add_argument("--task", default="gaugan", choices=["gaugan", "sfera", "contours"])
    parser.add_argument("--preset", default="large", choices=["paper", "large", "small", "tiny"])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--spade", default="table", choices=["table", "dense"])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    devices = h200.devices(1)
    spec = Spec("train", args.task, args.preset, dtype=args.dtype, spade=args.spade)
    task = task_of(spec, split_of(spec))
    traced = Parallel(task, devices=devices).traced(jax.eval_shape(task.init, jax.random.key(0)), next(task.batches(0)))
    compiled = traced.lower().compile()
    found = kernels(compiled.as_text())
    kinds = collections.Counter(kind for _, kind, _, _ in found)
    write_text(args.json, json.dumps({
        "compiled_for": "NVIDIA H200", "task": args.task, "preset": args.preset, "dtype": args.dtype,
        "spade": args.spade, "batch": spec.config.batch, "jax": jax.__version__, "commit": commit(),
        "kernels": len(found), "gigabytes": round(sum(k[0] for k in found) / 1e9, 2),
        "tflop": round(flops(traced.jaxpr, "cuda") / 1e12, 2),
        "temporaries_gib": round(getattr(compiled.memory_analysis(), "temp_size_in_bytes", math.nan) / 2**30, 2),
        "kinds": dict(kinds.most_common(8)),
        "largest": [{"megabytes": round(k[0] / 1e6), "kind": k[1], "shape": k[2], "from": k[3]} for k in found[:20]]},
        indent=1))
    print(f"{len(found)} kernels, {sum(k[0] for k in found) / 1e9:.1f} GB, "
          f"{flops(traced.jaxpr, 'cuda') / 1e12:.2f} TFLOP")


if __name__ == "__main__":
    main()
