"""Joins several processes, on one machine or many, into one training."""

import logging
import os
import re
import threading
from typing import NamedTuple

import jax

from cardiojax.errors import InputError, one_line
from cardiojax.train.gpus import gpus_here, visible_gpus

WAIT_S = 300
log = logging.getLogger("cardiojax")


class Launched(NamedTuple):
    """What a launcher says of this process."""

    launcher: str
    processes: int
    process: int
    on_node: int           # processes of this node
    rank_on_node: int


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None,
         timeout_s: float = WAIT_S):
    """Make this process one of `processes`, before JAX looks at any device.

    With none of the three: as SLURM (srun) or Open MPI say, alone where there is neither. Kubernetes says which pod
    this is (JOB_COMPLETION_INDEX), the rest is given. Raises InputError where some are missing or the GPUs do not go
    round; ends the process with one line and exit code 2 where the others do not come in time.
    """
    devices: list[int] = []                                   # all that this process sees
    if (coordinator, processes, process) == (None, None, None):
        if (found := launched()) is None:
            return
        devices, count = gpus_of(found), found.processes
    else:
        coordinator, count, process = _checked(coordinator, processes, process)
    where = f" at {coordinator}" if coordinator else ""
    log.info("waiting for %d processes%s", count, where)
    given_up = threading.Timer(timeout_s, _give_up, [count, where, timeout_s])
    given_up.daemon = True
    given_up.start()
    try:
        # devices are said, be it none: JAX would give one GPU to each task of SLURM (jax-ml/jax#28194)
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=int(timeout_s) + 60,
                                   local_device_ids=None if "JAX_LOCAL_DEVICE_IDS" in os.environ else devices)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the processes did not find each other ({one_line(error)})") from None
    finally:
        given_up.cancel()
    if jax.process_index() > 0:
        log.setLevel(logging.WARNING)                          # the first one speaks


def _checked(coordinator: str | None, processes: int | None, process: int | None) -> tuple[str, int, int]:
    if process is None and "JOB_COMPLETION_INDEX" in os.environ:
        process = int(os.environ["JOB_COMPLETION_INDEX"])
    if coordinator is None or processes is None or process is None:
        raise InputError("--coordinator HOST:PORT, --processes N and --process I go together")
    if not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"--coordinator is HOST:PORT, not {coordinator}")
    if not 0 <= process < processes:
        raise InputError(f"--process {process} of --processes {processes}: it is 0 to {processes - 1}")
    return coordinator, processes, process


def _give_up(processes: int, where: str, timeout_s: float):
    """JAX's own end to its waiting is an abort with a stack of C++."""
    log.error("cardiojax: error: of %d processes%s not all have come within %.0f s (--join-timeout)", processes, where,
              timeout_s)
    logging.shutdown()
    os._exit(2)


def launched() -> Launched | None:
    """What the launcher says that started this process as one of several; None where it is alone.

    SLURM's variables are also those of a job's script, of which there is one: only a step of srun is several.
    """
    if _number("SLURM_NTASKS") > 1 and "SLURM_PROCID" in os.environ:
        if "SLURM_STEP_NODELIST" in os.environ:
            return Launched("SLURM", _number("SLURM_NTASKS"), _number("SLURM_PROCID"),
                            tasks_on_this_node(os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"),
                                               _number("SLURM_NODEID")), _number("SLURM_LOCALID"))
        log.warning("SLURM has %s tasks for this job, but srun did not start this process: it trains alone",
                    os.environ["SLURM_NTASKS"])
    if _number("OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_COMM_WORLD_RANK" in os.environ:
        return Launched("Open MPI", _number("OMPI_COMM_WORLD_SIZE"), _number("OMPI_COMM_WORLD_RANK"),
                        _number("OMPI_COMM_WORLD_LOCAL_SIZE") or 1, _number("OMPI_COMM_WORLD_LOCAL_RANK"))
    return None


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
