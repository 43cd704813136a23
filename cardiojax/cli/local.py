"""`cardiojax local`: several processes on one machine as one training, started again where one of them dies."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from cardiojax.cli.main import PREEMPTED
from cardiojax.errors import InputError
from cardiojax.train.first_step import FILE
from cardiojax.train.launchers import visible_gpus

GRACE_S = {PREEMPTED: 300.0}        # for the others to end by themselves after the first: time to save


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local:
    """Run `cardiojax train …` or `bench …` as several processes of this machine, which find each other by themselves.

    cardiojax local --processes 2 --devices 4 -- train sfera --preset large …

    Where one process dies after its first step, the others are stopped and all are started again: they go on from the
    last checkpoint.
    SIGTERM is passed on; every process saves, and the same command goes on (exit code 75).
    """

    processes: int
    """How many."""
    devices: int = 1
    """Devices of each: GPUs, or on a machine without any so many parts of the CPU."""
    restarts: int = 3
    """How often to start again after a process has died."""


def main(argv: list[str]) -> int:
    words, command = (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])
    args = tyro.cli(Local, args=words, prog="cardiojax local")
    if command[:1] not in (["train"], ["bench"]):
        raise InputError("after --, the command to run: cardiojax local --processes 2 -- train sfera …")
    if args.processes < 1 or args.devices < 1:
        raise InputError("--processes and --devices are 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        stepped = Path(folder) / "stepped"
        for left in range(args.restarts, -1, -1):
            code = run(args, command, stepped)
            if code in (0, 2, PREEMPTED) or not left:       # 2: the user's to mend, another try would not
                return code
            if not stepped.exists():
                print(f"cardiojax: a process ended with exit code {code} before its first step; none is started again",
                      file=sys.stderr)
                return code
            print(f"cardiojax: a process ended with exit code {code}; starting all {args.processes} again",
                  file=sys.stderr)
    return 1


def run(args: Local, command: list[str], stepped: Path) -> int:
    """All processes to their end: 0, or the first exit code that is not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    children = [subprocess.Popen(
        [sys.executable, "-m", "cardiojax", *command, "--coordinator", coordinator, "--processes",
         str(args.processes), "--process", str(i)], env=environment(args, i, stepped)) for i in range(args.processes)]
    stopping = [signal.signal(s, lambda *_: [child.terminate() for child in children])
                for s in (signal.SIGTERM, signal.SIGINT)]
    code = None
    try:
        while code is None:
            time.sleep(0.1)
            codes = [child.poll() for child in children]
            code = next((c for c in codes if c), None if None in codes else 0)
        return code if code >= 0 else 128 - code
    finally:
        end(children, GRACE_S.get(code, 10.0))
        for s, before in zip((signal.SIGTERM, signal.SIGINT), stopping, strict=True):
            signal.signal(s, before)


def end(children: list[subprocess.Popen], grace_s: float):
    """A process whose companion is gone may wait for it inside a collective, deaf to SIGTERM."""
    until = time.monotonic() + grace_s
    while any(child.poll() is None for child in children) and time.monotonic() < until:
        time.sleep(0.1)
    for child in children:
        child.kill()
        child.wait()


def environment(args: Local, process: int, stepped: Path) -> dict[str, str]:
    """Its share of the devices: of the GPUs that are here and not hidden, or else of the CPU. What the user has set
    stays in front. Raises InputError where the GPUs do not suffice."""
    gpus = visible_gpus()
    if gpus and len(gpus) < (needed := args.processes * args.devices):
        raise InputError(f"{args.processes} processes of {args.devices} devices need {needed} GPUs; {len(gpus)} are "
                         "here (CUDA_VISIBLE_DEVICES= hides them, to train on the CPU)")
    mine = gpus[process * args.devices:(process + 1) * args.devices]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={args.devices}".strip()
    root = str(Path(__file__).parents[2])               # the package is found also where it is not installed
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(mine), "XLA_FLAGS": flags, FILE: str(stepped),
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
