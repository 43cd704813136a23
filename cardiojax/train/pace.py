"""How fast a training goes, and how much of its time it waits for input: what says where a machine is held up."""

import contextlib
import time

import jax

LOGGED_EVERY_S = 30.0


class Pace:
    """Counts between two `facts`. The first step (compilation) and evaluations are left out: `restart` after them."""

    def __init__(self, things: int):
        """things: of a step, over all devices."""
        self.things = things
        self.restart()

    def restart(self):
        self.began, self.waited_s, self.steps = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self):
        """Round what gets the next step's input."""
        start = time.monotonic()
        yield
        self.waited_s += time.monotonic() - start
        self.steps += 1

    @property
    def due(self) -> bool:
        return time.monotonic() - self.began > LOGGED_EVERY_S

    def facts(self) -> dict[str, float]:
        """Of the steps since `restart`, whose results are known; peak_memory_gib of the device, where it says."""
        seconds = time.monotonic() - self.began
        memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        found = {"step_s": seconds / max(self.steps, 1), "per_s": self.steps * self.things / seconds,
                 "input_wait_share": self.waited_s / seconds,
                 **({} if memory is None else {"peak_memory_gib": memory / 2**30})}
        self.restart()
        return {k: round(v, 4) for k, v in found.items()}
