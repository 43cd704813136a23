"""Arrays of records that were read once, kept in memory for the next epochs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

GIB = 2**30
SHARE = 1 / 16                # of the memory, that each process keeps of what it read
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Kept:
    """What `make` gives for a number: a tree of arrays, kept from the first time on until `limit_gib` are full.

    Nothing is ever let go: of an epoch that does not fit, what was kept would be gone before it is asked for again.
    Threads may share it. What it returns is not to be written to.
    """

    def __init__(self, make: Callable[[int], Any], limit_gib: float):
        self.make, self.left, self.found = make, limit_gib * GIB, {}

    def __call__(self, i: int) -> Any:
        if i in self.found:
            return self.found[i]
        made = self.make(i)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(made))
        if size <= self.left:
            self.left -= size
            made = self.found[i] = jax.tree.map(np.array, made)       # a view would keep all that it is a view of
        return made


def default_limit_gib() -> float:
    """SHARE of the memory of this machine, or of what its container may have."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.is_file() else ""
    return SHARE * min(memory, int(limit) if limit.isdigit() else memory) / GIB
