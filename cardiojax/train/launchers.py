"""What SLURM and Open MPI say of a process that they have started, and which GPUs are its own.

Without asking CUDA or JAX: who does that before the processes have joined has chosen its devices.
"""

import logging
import os
from pathlib import Path
from typing import NamedTuple

from cardiojax.errors import InputError

log = logging.getLogger("cardiojax")


class Launched(NamedTuple):
    """What a launcher says of this process."""

    launcher: str
    processes: int
    process: int
    on_node: int           # processes of this node
    rank_on_node: int


def launched() -> Launched | None:
    """What the launcher says that started this process as one of several; None where it is alone.

    SLURM's variables are also those of a job's script, of which there is one: only a step of srun is several.
    """
    if _number("SLURM_NTASKS") > 1 and {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= os.environ.keys():
        on_node = tasks_on_this_node(os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"), _number("SLURM_NODEID"))
        return Launched("SLURM", _number("SLURM_NTASKS"), _number("SLURM_PROCID"), on_node, _number("SLURM_LOCALID"))
    if _number("OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_COMM_WORLD_RANK" in os.environ:
        return Launched("Open MPI", _number("OMPI_COMM_WORLD_SIZE"), _number("OMPI_COMM_WORLD_RANK"),
                        _number("OMPI_COMM_WORLD_LOCAL_SIZE") or 1, _number("OMPI_COMM_WORLD_LOCAL_RANK"))
    return None


def warn_without_srun():
    """Where a job of several tasks has this process work alone."""
    if _number("SLURM_NTASKS") > 1 and "SLURM_STEP_NODELIST" not in os.environ:
        log.warning("SLURM has %s tasks for this job, but srun did not start this process: it works alone",
                    os.environ["SLURM_NTASKS"])


def _number(variable: str) -> int:
    """0 where it is missing or empty."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() else 0


def tasks_on_this_node(said: str, node: int) -> int:
    """Of SLURM's list of tasks by node: "8" or "4(x3),2"."""
    counts = []
    for part in said.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[min(node, len(counts) - 1)]


def gpus_of(found: Launched) -> list[int]:
    """Which of the GPUs that this process sees are its own; empty: all of them, or there are none.

    Where the launcher has bound GPUs to its tasks, each sees its own alone; else all of a node see all of it, and
    share. Raises InputError where they do not go round.
    """
    seen, of_node = len(visible_gpus()), _number("SLURM_GPUS_ON_NODE") or gpus_here()
    if seen == 0 or found.on_node == 1 or seen < of_node:
        return []
    if seen % found.on_node:
        raise InputError(f"{found.launcher} has started {found.on_node} processes on a node of {seen} GPUs, which do "
                         "not go round; start one process a node, or one a GPU")
    share = seen // found.on_node
    return list(range(found.rank_on_node * share, (found.rank_on_node + 1) * share))


def keep_to_own_gpus(found: Launched):
    """Hide the others from this process, which works by itself."""
    seen, own = visible_gpus(), gpus_of(found)
    if own:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen[i] for i in own)


def visible_gpus() -> list[str]:
    """NVIDIA's that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return [str(i) for i in range(gpus_here())]
    return [name for name in said.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]


def gpus_here() -> int:
    """Of this machine, or of what its scheduler lets us see of it."""
    return len([f for f in Path("/dev").glob("nvidia*") if f.name.removeprefix("nvidia").isdigit()])
