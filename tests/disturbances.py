"""What happens to a command of `tests.chaos`: a process of its own, and ways to disturb it at a random moment."""

import contextlib
import ctypes
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from cardiojax.cli.main import main as cardiojax

WAIT_S = 900                       # that a command may take, compilation and a busy machine included


class Command:
    """A command in a process of its own, forked from this one. `said`: what it has written so far, through a pipe, for
    its files may have no room."""

    def __init__(self, words: list[str], before: Callable[[], object] = lambda: None):
        self.rc, self.said, (self.pipe, into) = None, "", os.pipe()
        os.set_blocking(self.pipe, False)
        self.pid = os.fork()
        if not self.pid:
            self._run(words, into, before)
        os.close(into)

    def _run(self, words: list[str], into: int, before: Callable[[], object]):
        code = 70
        try:
            os.dup2(into, 1)
            os.dup2(into, 2)
            before()
            code = cardiojax(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 70
        except BaseException:                        # a traceback is what must not be
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended(self, within_s: float) -> bool:
        until = time.monotonic() + within_s
        while self.rc is None and time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            with contextlib.suppress(BlockingIOError):
                while part := os.read(self.pipe, 1 << 16):
                    self.said += part.decode(errors="replace")
            if pid:
                self.rc = os.waitstatus_to_exitcode(status)
                os.close(self.pipe)
            else:
                time.sleep(0.005)
        return self.rc is not None

    def end(self) -> int:
        if not self.ended(WAIT_S):
            os.kill(self.pid, signal.SIGKILL)
            self.ended(10)
            raise AssertionError(f"did not end in {WAIT_S} s")
        assert self.rc is not None
        return self.rc


def kill(start: Callable[..., Command], out: Path, seconds: float, rng: random.Random, how=signal.SIGKILL) -> set[int]:
    """Killed at any moment; the exit codes that are fine."""
    command = start()
    if not command.ended(rng.uniform(0, 1.1 * seconds)):
        os.kill(command.pid, how)
    return {command.end()} - {-how}


def terminate(start, out, seconds, rng) -> set[int]:
    return kill(start, out, seconds, rng, signal.SIGTERM)


def full_disk(start, out, seconds, rng) -> set[int]:
    """No file may become longer than so many bytes."""
    most = int(2**rng.uniform(4, 22))
    return {start(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))).end()}


def read_only(start, out, seconds, rng) -> set[int]:
    """All folders become read-only at any moment."""
    command = start(without_override)
    command.ended(rng.uniform(0, 1.1 * seconds))
    for mode in (0o555, 0o755):
        for folder in (out, *out.rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if folder.is_dir() and not folder.is_symlink():
                    folder.chmod(mode)
        codes = {command.end()}
    return codes


def without_override():
    """Permissions hold for root too: without CAP_DAC_OVERRIDE, and what else it may do."""
    header, nothing = struct.pack("<Ii", 0x20080522, 0), bytes(24)
    ctypes.CDLL(None, use_errno=True).capset(header, nothing)


def jumping_clock(start, out, seconds, rng) -> set[int]:
    """The wall clock goes a day back or forth, again and again."""
    def before():
        real, jumps = time.time, random.Random(rng.random())           # noqa: S311
        time.time = lambda: real() + jumps.choice((-86400.0, 0.0, 86400.0))

    return {start(before).end()}


def two_at_once(start, out, seconds, rng) -> set[int]:
    """The same command once more, at the same time or a little later."""
    first = start()
    time.sleep(rng.choice((0.0, rng.uniform(0, seconds))))
    return {start().end(), first.end()}


DISTURBANCES = [kill, terminate, full_disk, jumping_clock, two_at_once, read_only]
