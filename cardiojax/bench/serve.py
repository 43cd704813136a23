"""One side of a measurement in a process of its own: `python -m cardiojax.bench.serve SPEC`, SPEC being JSON.

Says what it does in a line of JSON once it has done it twice; then, for each line on stdin, the seconds of the second
of two more (a process that was stopped finds its caches and pages cold); at the end of stdin its peak memory.
"""

import contextlib
import json
import resource
import sys
import time

import jax

from cardiojax.bench.ours import ours
from cardiojax.bench.theirs import theirs
from cardiojax.bench.workloads import Spec, Workload


def main():
    spec = Spec(**json.loads(sys.argv[1]))
    workload, about = begun(spec)
    say(about)
    for _ in sys.stdin:
        say(timed(workload))
    say(peak_memory_bytes(spec))


def begun(spec: Spec) -> tuple[Workload, dict]:
    """What is measured, compiled and warm, and what it does."""
    workload = (ours if spec.impl == "cardiojax" else theirs)(spec)
    for _ in range(2):
        workload.call()
    return workload, {"things": workload.things, "unit": workload.unit, "flops": workload.flops,
                      "device": jax.devices()[0].device_kind}


def timed(workload: Workload) -> float:
    workload.call()
    began = time.perf_counter()
    workload.call()
    return time.perf_counter() - began


def peak_memory_bytes(spec: Spec) -> int:
    """Of the accelerator, or of this process where there is none."""
    if spec.impl == "torch":
        import torch
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    elif stats := jax.local_devices()[0].memory_stats():
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(what):
    print(json.dumps(what), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):             # whatever a library has to say is no figure
        main()
