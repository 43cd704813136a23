"""The only training loop: restore, step, watch, evaluate, save; a task says what a step and an evaluation are.

Of several processes all run it, step for step; the first writes and speaks.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cardiojax.errors import Preempted, TrainingDiverged
from cardiojax.train.parallel import Parallel, StepOptions
from cardiojax.train.run import Run

log = logging.getLogger("cardiojax")

LOG_EVERY = 10            # steps; losses stay on the device until then
SAY_EVERY_S = 30.0        # between lines where the output is no terminal
PROFILED = (11, 16)       # of the steps after the start: the first that is traced, the first that is not
SAVE_EVERY_S = 120.0      # between checkpoints: what a killed process loses at most


@runtime_checkable
class Task(Protocol):
    """What the loop needs. `step` is pure: (state, batch, key, constants) → (state, metrics), with `loss` among them.

    `constants`: arrays that steps only read. `evaluate`: figures, the model, and pictures ((H, W, 3) uint8) by name;
    `shard` puts a batch on the devices.
    """

    constants: Any

    def init(self, key: jax.Array) -> Any: ...
    def batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1) -> Iterator: ...
    def step(self, state: Any, batch: Any, key: jax.Array, constants: Any = (), axis_name: str | None = None
             ) -> tuple[Any, dict]: ...
    def evaluate(self, state: Any, shard: Callable) -> tuple[dict[str, float], dict, dict[str, np.ndarray]]: ...
    def score(self, metrics: dict[str, float]) -> float: ...


def train(task: Task, run: Path, settings: dict[str, Any], options: StepOptions, config: Any, unit: str = "studies"
          ) -> dict[str, float]:
    """`fit` a task in a run folder of these settings, or say what its step costs (`options.dry_run`)."""
    parallel = Parallel(task, options.parallel)
    if options.dry_run:
        cost(task, parallel, config.batch, unit)
        return {}
    with Run(run, {**settings, "accumulate": options.accumulate}) as opened:
        return fit(task, opened, steps=config.steps, batch=config.batch, evaluate_every=config.evaluate_every,
                   seed=settings["seed"], keep=config.keep, parallel=parallel, unit=unit, profile=options.profile)


def cost(task: Task, parallel: Parallel, batch: int, unit: str):
    """Log what one step takes, by the compiler's own analysis."""
    state = jax.eval_shape(task.init, jax.random.key(0))
    arrays = next(task.batches(0, jax.process_index(), jax.process_count(), len(parallel.devices)))
    began = time.monotonic()
    compiled = parallel.compiled(state, arrays)
    took, memory = time.monotonic() - began, compiled.memory_analysis()
    flops = (compiled.cost_analysis() or {}).get("flops", math.nan)
    shapes = ", ".join(f"{np.shape(x)} {x.dtype}" for x in jax.tree.leaves(arrays))
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in vars(state).items()}
    log.info("a step: %d %s on %d × %s, compiled in %.0f s", batch, unit, len(parallel.devices),
             parallel.devices[0].device_kind, took)
    log.info("each process brings %s", shapes)
    log.info("numbers in the state: %s", ", ".join(f"{k} {n:,}" for k, n in sizes.items() if n > 1))
    log.info("a device: %.3g GFLOP, %.2f GiB of arguments, %.2f GiB of temporaries", flops / 1e9,
             memory.argument_size_in_bytes / 2**30, memory.temp_size_in_bytes / 2**30)


def fit(task: Task, run: Run, *, steps: int, batch: int, evaluate_every: int, seed: int, keep: str = "last",
        parallel: Parallel, unit: str = "studies", profile: Path | None = None) -> dict[str, float]:
    """Train to `steps`, going on from the run's latest checkpoint. Returns the last evaluation's metrics.

    In this order: the newest checkpoint with its place in the data; steps, each with a key folded from the seed
    and the step; every `evaluate_every` steps an evaluation, its model and a checkpoint; a checkpoint every two
    minutes between them, and at SIGTERM.
    Raises TrainingDiverged at a loss that is not finite, Preempted after SIGTERM once everything is saved.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))
    state = task.init(init_key)
    batches = task.batches(seed, jax.process_index(), jax.process_count(), len(parallel.devices))
    if restored := run.restore(parallel.abstract(state)):
        state, data_state = restored
        batches.set_state(data_state)
        log.info("resumed at step %d", int(state.step))
    start, metrics, best = int(state.step), {}, run.best_score()
    state = parallel.place(state)
    pending: list[tuple[int, dict]] = []
    saved = time.monotonic()
    with StopSignal() as stop, Line(steps, start, batch, unit) as line:
        for at in range(start + 1, steps + 1):
            if profile and at - start in PROFILED:
                trace(profile, at - start == PROFILED[0], state)
            state, values = parallel.step(state, next(batches), step_key)
            pending.append((at, values))
            last, stopping = at == steps, stop.at(at)
            if at % LOG_EVERY == 0 or last or stopping or at % evaluate_every == 0:
                line.show(at, record(pending, run))
                pending.clear()
            if at % evaluate_every == 0 or last:
                metrics, model, pictures = task.evaluate(parallel.locally(state), parallel.shard_locally)
                score = task.score(metrics)
                run.log(at, {**metrics, "score": score}, "validation")
                for name, picture in pictures.items():
                    run.picture(at, name, picture)
                line.say(f"step {at}: " + ", ".join(f"{k} {v:.3g}" for k, v in metrics.items()
                                                    if "mean_predictor" not in k) + f", score {score:.3f}")
                if keep == "last" or not score > best:
                    run.write_model(model)
                best = min(best, score)
                run.save(at, parallel.gathered(state), batches.get_state(), score)
                saved = time.monotonic()
            elif not pending and (stopping or agreed(time.monotonic() - saved > SAVE_EVERY_S)):
                run.save(at, parallel.gathered(state), batches.get_state())       # its losses are known to be finite
                saved = time.monotonic()
            if stopping and not last:
                raise Preempted(f"stopped at step {at} of {steps} and saved; the same command goes on from there")
    return metrics


def trace(folder: Path, begin: bool, state: Any):
    jax.block_until_ready(state)
    if begin:
        jax.profiler.start_trace(str(folder))
    else:
        jax.profiler.stop_trace()
        log.info("trace of %d steps in %s", PROFILED[1] - PROFILED[0], folder)


def record(pending: list[tuple[int, dict]], run: Run) -> float:
    """Write the metrics of the last steps; the loss of the newest. Raises TrainingDiverged, naming the step."""
    loss = math.nan
    for at, values in pending:
        values = {k: float(v) for k, v in values.items()}
        run.log(at, values)
        loss = values["loss"]
        if wrong := [k for k, v in values.items() if not math.isfinite(v)]:
            raise TrainingDiverged(f"the loss is {values[wrong[0]]} at step {at} ({wrong[0]}); the last checkpoint is "
                                   "kept. Try a lower learning rate")
    return loss


def agreed(wish: bool) -> bool:
    """What the first process wishes: clocks differ, and a checkpoint is written by all or by none."""
    if jax.process_count() == 1:
        return wish
    return bool(multihost_utils.broadcast_one_to_all(np.array(wish)))


class StopSignal:
    """Turns SIGTERM into a request that the loop honours between two steps; of several processes, any one's, after a
    step that all agree on."""

    def __init__(self):
        self.requested = False

    def at(self, step: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.requested

    def __enter__(self) -> "StopSignal":
        self.ours = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        if self.ours:
            self._before = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_):
        if self.ours:
            signal.signal(signal.SIGTERM, self._before)

    def _request(self, *_):
        self.requested = True


class Line:
    """The live line: step, loss, studies/s, time left; a plain line now and then where there is no terminal."""

    def __init__(self, steps: int, start: int, batch: int, unit: str):
        self.steps, self.start, self.batch, self.unit = steps, start, batch, unit
        self.console = Console(stderr=True, quiet=jax.process_index() > 0)
        self.progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:.1f} " + unit + "/s"), TimeRemainingColumn(),
            console=self.console, disable=not self.console.is_terminal)
        self.task = self.progress.add_task("train", total=steps, completed=start, loss=math.nan, rate=0.0)
        self.began = self.said = time.monotonic()

    def __enter__(self) -> "Line":
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()

    def show(self, at: int, loss: float):
        now = time.monotonic()
        rate = (at - self.start) * self.batch / max(now - self.began, 1e-6)
        self.progress.update(self.task, completed=at, loss=loss, rate=rate)
        if not self.console.is_terminal and now - self.said > SAY_EVERY_S:
            self.said = now
            left = (self.steps - at) * self.batch / max(rate, 1e-6)
            self.say(f"step {at}/{self.steps}  loss {loss:.4f}  {rate:.1f} {self.unit}/s  {left / 60:.0f} min left")

    def say(self, text: str):
        self.progress.console.print(text, highlight=False, soft_wrap=True)
