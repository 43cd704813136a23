"""What a training step costs, from its compiled program: nothing is run, and the devices need not be here."""

import dataclasses
import logging
import os
import time
from typing import Any

import jax
import numpy as np

from cardiojax.errors import InputError, one_line
from cardiojax.ops.collectives import collectives
from cardiojax.ops.flops import flops, platform_of
from cardiojax.train.parallel import Parallel, StepOptions, check_batch

log = logging.getLogger("cardiojax")

# no service is asked what this machine is, and its log says only what ends it
NO_TPU_HERE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_STDERR_LOG_LEVEL": "3",
               "TPU_MIN_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one step on one device."""

    compile_s: float
    gflop: float
    accessed_gb: float                              # these three: 0 where the compiler does not say
    arguments_gib: float
    temporaries_gib: float
    estimate_ms: float                              # a TPU's compiler's own, without what is sent; 0 elsewhere
    collectives: dict[str, dict[str, int]]          # by kind, `count` and `bytes`


def cost(parallel: Parallel, state: Any, arrays: Any) -> Cost:
    """Compiles the step for `parallel`'s devices. state: shapes. arrays: a batch as one process brings it."""
    traced, start_time = parallel.traced(state, arrays), time.monotonic()
    compiled = traced.lower().compile()
    compile_s, memory = time.monotonic() - start_time, compiled.memory_analysis()
    platform = platform_of(parallel.local_devices[0])
    said, sent = compiled.cost_analysis() or {}, collectives(compiled.as_text())
    seconds = said.get("optimal_seconds", 0)
    if seconds < 0:                    # −1 s is what a collective counts with some versions of libtpu
        seconds += sum(kind["count"] for kind in sent.values())
    estimate_s = max(seconds, 0) if platform == "tpu" else 0
    return Cost(compile_s, flops(traced.jaxpr, platform) / 1e9, said.get("bytes accessed", 0) / 1e9,
                memory.argument_size_in_bytes / 2**30 if memory else 0,
                memory.temp_size_in_bytes / 2**30 if memory else 0,
                1000 * estimate_s, sent)


def log_cost(task: Any, options: StepOptions, batch: int, unit: str):
    """Log what one step takes, by the compiler's own analysis. Raises InputError for a topology that it knows not."""
    devices = topology_devices(options.topology) if options.topology else jax.devices()
    check_batch(batch, len(devices), unit, options.accumulate)
    state = jax.eval_shape(task.init, jax.random.key(0))
    arrays = next(task.batches(0, jax.process_index(), jax.process_count(), len(devices)))
    for size in {len(x) * jax.process_count() for x in jax.tree.leaves(arrays)} - {batch}:
        check_batch(size, len(devices), "stacks", options.accumulate)
    found = cost(Parallel(task, options.parallel, devices), state, arrays)
    shapes = ", ".join(f"{np.shape(x)} {x.dtype}" for x in jax.tree.leaves(arrays))
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in vars(state).items()}
    log.info("a step: %d %s on %d × %s, compiled in %.0f s", batch, unit, len(devices), devices[0].device_kind,
             found.compile_s)
    log.info("each process brings %s", shapes)
    log.info("numbers in the state: %s", ", ".join(f"{k} {n:,}" for k, n in sizes.items() if n > 1))
    if found.arguments_gib:
        log.info("a device: %.3g GFLOP, %.3g GB read and written, %.2f GiB of arguments, %.2f GiB of temporaries",
                 found.gflop, found.accessed_gb, found.arguments_gib, found.temporaries_gib)
    if found.estimate_ms:
        log.info("by the compiler's estimate %.1f ms, without what is sent", found.estimate_ms)
    for kind, sent in found.collectives.items():
        log.info("%s: %d, %.1f MB", kind, sent["count"], sent["bytes"] / 1e6)


def topology_devices(name: str) -> list:
    """The TPU chips of a slice such as v5e:2x4, to compile for. Raises InputError in one line."""
    from jax.experimental import topologies

    for name_of, value in NO_TPU_HERE.items():
        os.environ.setdefault(name_of, value)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise InputError(f"--topology {name} (its compiler comes with cardiojax[tpu]): {one_line(error)}") from None
