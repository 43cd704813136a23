"""What a process may use of the machine it is on."""

import os


def usable_cores() -> int:
    """Of all cores those that this process is allowed, by `taskset` or a scheduler."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
