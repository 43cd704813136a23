"""Training studies that lie in the memory of every device: a step is sent which of them make its batch, and no more."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from cardiojax.data.resident import Picked
from cardiojax.errors import InputError
from cardiojax.preparation.batch import Batch
from cardiojax.train.parallel import Parallel

SHARE = 0.5              # of a device's memory, that the studies may take


class Resident:
    """The studies of a task on this process's devices. Batches, their order and the states of their iterator are those
    of `task.batches`."""

    def __init__(self, task: Any, parallel: Parallel):
        """A task that `check` lets pass."""
        self.parallel, self.batches = parallel, task.picked_batches
        self.studies = jax.device_put(task.all_studies(), parallel.local_replicated)
        self._rows = rows_of(parallel.local_sharded, parallel.local_device_count if parallel.mode == "pmap" else 0)

    def place_batch(self, picked: Picked) -> Batch:
        """The studies of this process's part of a batch, on its devices as the step takes them."""
        indices = jax.device_put(picked.indices, self.parallel.local_sharded)
        return self.parallel.of_all_processes(self._rows(self.studies, indices, slice_budget=picked.slice_budget))


def check(task: Any, device: Any):
    """Raises InputError where a task has no studies to keep, or more than a device has room for beside the training."""
    if not hasattr(task, "all_studies"):
        raise InputError("--resident is for SFERA, whose batches are large; other trainings are sent little")
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None and task.gib > SHARE * limit / 2**30:
        raise InputError(f"--resident: the training studies take {task.gib:.1f} GiB, more than half of the "
                         f"{limit / 2**30:.1f} GiB of {device.device_kind}; without it they are sent batch by batch")


def rows_of(sharding: NamedSharding, stacked: int) -> Callable:
    """(studies, indices) → their batch, split over the devices; `stacked`: as so many parts, for pmap."""
    @functools.partial(jax.jit, static_argnames="slice_budget", out_shardings=sharding)
    def rows(studies: Batch, indices, slice_budget: int) -> Batch:
        def of(x):
            taken = jnp.take(x, indices, axis=0)
            return taken.reshape(stacked, -1, *x.shape[1:]) if stacked else taken

        return dataclasses.replace(jax.tree.map(of, studies), slice_budget=slice_budget)

    return rows
