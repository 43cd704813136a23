"""Joins several processes, on one machine or many, into one training."""

import logging
import os

import jax

from cardiojax.errors import InputError, one_line

# what a launcher sets in each of its processes: (how many there are, which one this is)
LAUNCHERS = {"SLURM": ("SLURM_NTASKS", "SLURM_PROCID"), "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")}
WAIT_S = 300


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None):
    """Make this process one of `processes`, before JAX looks at any device.

    With none of the three: as SLURM (srun) or Open MPI say, alone where there is neither. Kubernetes says which pod
    this is (JOB_COMPLETION_INDEX), the rest is given. Raises InputError where some are missing or the others do not
    come within five minutes.
    """
    if processes is None and coordinator is None and process is None:
        if not launched():
            return
    else:
        if process is None and "JOB_COMPLETION_INDEX" in os.environ:
            process = int(os.environ["JOB_COMPLETION_INDEX"])
        if coordinator is None or processes is None or process is None:
            raise InputError("--coordinator HOST:PORT, --processes N and --process I go together")
        if not 0 <= process < processes:
            raise InputError(f"--process {process} of --processes {processes}: it is 0 to {processes - 1}")
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=WAIT_S)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the processes did not find each other ({one_line(error)})") from None
    if jax.process_index() > 0:
        logging.getLogger("cardiojax").setLevel(logging.WARNING)       # the first one speaks


def launched() -> str | None:
    """The launcher that started this process as one of several."""
    for name, (count, which) in LAUNCHERS.items():
        if int(os.environ.get(count, 1)) > 1 and which in os.environ:
            return name
    return None
