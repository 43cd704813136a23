"""Joins several processes, on one machine or many, into one training."""

import logging
import os
import re
import threading

import jax

from cardiojax.errors import InputError, one_line
from cardiojax.train.launchers import gpus_of, launched, warn_without_srun

WAIT_S = 300
log = logging.getLogger("cardiojax")


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
            warn_without_srun()
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
