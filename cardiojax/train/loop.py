"""The training loop of both tasks: restore, step, log, evaluate, save.

Of several processes all run it, step for step; the first alone writes metrics and messages.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import grain.python as grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cardiojax.errors import Preempted, TrainingDiverged
from cardiojax.ops.host import on_host
from cardiojax.train import first_step, resident
from cardiojax.train.dry_run import log_cost
from cardiojax.train.pace import Pace
from cardiojax.train.parallel import Parallel, StepOptions
from cardiojax.train.run import Run

log = logging.getLogger("cardiojax")

LOG_EVERY = 10            # steps; losses stay on the device until then
PRINT_EVERY_S = 30.0      # between lines where the output is no terminal
TRACED_STEPS = (11, 16)   # of the steps after the start: the first that is traced, the first that is not
SAVE_EVERY_S = 120.0      # between checkpoints: what a killed process loses at most


@runtime_checkable
class Task(Protocol):
    """What the loop trains. `step` is pure: (state, batch, key, constants) → (state, metrics), with `loss` among them.

    `constants`: arrays that steps only read. `evaluate`: figures, the model, and pictures ((H, W, 3) uint8) by name;
    `shard` puts a batch on the devices; without `everything` a sample of large splits will do.
    """

    constants: Any

    def init(self, key: jax.Array) -> Any: ...
    def batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1
                ) -> grain.DatasetIterator: ...
    def step(self, state: Any, batch: Any, key: jax.Array, constants: Any = (), axis_name: str | None = None
             ) -> tuple[Any, dict]: ...
    def evaluate(self, state: Any, shard: Callable, everything: bool = True
                 ) -> tuple[dict[str, float], dict, dict[str, np.ndarray]]: ...
    def score(self, metrics: dict[str, float]) -> float: ...


def train(task: Task, run: Path, settings: dict[str, Any], options: StepOptions, config: Any, unit: str = "studies"
          ) -> dict[str, float]:
    """`fit` a task in a run folder of these settings, or log what its step costs (`options.dry_run`)."""
    if options.dry_run:
        log_cost(task, options, config.batch, unit)
        return {}
    parallel = Parallel(task, options.parallel)
    if options.resident:
        resident.check(task, parallel.local_devices[0])
    machine = {"device": parallel.devices[0].device_kind, "devices": len(parallel.devices),
               "processes": jax.process_count(), "parallel": options.parallel}
    if jax.process_index() == 0:
        log.info("%d × %s by %s in %d process%s, %d %s a step", machine["devices"], machine["device"],
                 options.parallel, machine["processes"], "es" * (machine["processes"] > 1), config.batch, unit)
    with Run(run, {**settings, "accumulate": options.accumulate, "machine": machine}) as opened:
        return fit(task, opened, steps=config.steps, batch=config.batch, evaluate_every=config.evaluate_every,
                   seed=settings["seed"], keep=config.keep, parallel=parallel, unit=unit, profile=options.profile,
                   on_devices=resident.Resident(task, parallel) if options.resident else None)


def fit(task: Task, run: Run, *, steps: int, batch: int, evaluate_every: int, seed: int, keep: str = "last",
        parallel: Parallel, unit: str = "studies", profile: Path | None = None,
        on_devices: resident.Resident | None = None) -> dict[str, float]:
    """Train to `steps`, going on from the run's latest checkpoint. Returns the last evaluation's metrics.

    on_devices: the task's studies, where they lie there.

    In this order: the newest checkpoint with its place in the data; steps, each with a key folded from the seed
    and the step; every `evaluate_every` steps an evaluation, its model and a checkpoint; a checkpoint every two
    minutes between them, and at SIGTERM.
    Raises TrainingDiverged at a loss that is not finite, Preempted after SIGTERM once everything is saved.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))
    with on_host():
        state = task.init(init_key)
    batches_of, place = (task.batches, parallel.place_batch) if on_devices is None else (
        on_devices.batches, on_devices.place_batch)
    batches = batches_of(seed, jax.process_index(), jax.process_count(), len(parallel.devices))
    if restored := run.restore(parallel.abstract(state)):
        state, data_state = restored
        batches.set_state(data_state)
        log.info("resumed at step %d", int(state.step))
    start, metrics, best = int(state.step), {}, run.best_score()
    state = parallel.place(state)
    pending: list[tuple[int, dict]] = []
    saved, pace = time.monotonic(), Pace(batch)
    with StopSignal() as stop, ProgressLine(steps, start, batch, unit) as progress:
        for step in range(start + 1, steps + 1):
            if profile and step - start in TRACED_STEPS:
                trace(profile, step - start == TRACED_STEPS[0], state)
            with pace.waiting():
                arrays = next(batches)
            state, values = parallel.step(state, place(arrays), step_key)
            pending.append((step, values))
            if step == start + 1:
                jax.block_until_ready(values)
                pace.restart()                                             # what it waited for was the compiler
                first_step.taken()
            last, stopping = step == steps, stop.requested_at(step)
            evaluating = last or step % evaluate_every == 0
            if step % LOG_EVERY == 0 or stopping or evaluating:
                progress.show(step, record(pending, run))
                pending.clear()
                if pace.due or evaluating:
                    run.log(step, pace.facts(), "machine")
            if evaluating:
                began = time.monotonic()
                metrics, model, pictures = task.evaluate(parallel.local_state(state), parallel.local_batch,
                                                         everything=last or keep == "best")
                score = task.score(metrics)
                run.log(step, {"evaluation_s": round(time.monotonic() - began, 4)}, "machine")
                run.log(step, {**metrics, "score": score}, "validation")
                for name, picture in pictures.items():
                    run.picture(step, name, picture)
                progress.print(f"step {step}: " + ", ".join(f"{k} {v:.3g}" for k, v in metrics.items()
                                                    if "mean_predictor" not in k) + f", score {score:.3f}")
                if keep == "last" or not score > best:
                    run.write_model(model)
                best = min(best, score)
                run.save(step, parallel.gathered(state), batches.get_state(), score)
                saved = time.monotonic()
                pace.restart()
            elif not pending and (stopping or first_process_says(time.monotonic() - saved > SAVE_EVERY_S)):
                run.save(step, parallel.gathered(state), batches.get_state())       # its losses are known to be finite
                saved = time.monotonic()
            if stopping and not last:
                raise Preempted(f"stopped at step {step} of {steps} and saved; the same command goes on from there")
    return metrics


def trace(folder: Path, start: bool, state: Any):
    jax.block_until_ready(state)
    if start:
        jax.profiler.start_trace(str(folder))
    else:
        jax.profiler.stop_trace()
        log.info("trace of %d steps in %s", TRACED_STEPS[1] - TRACED_STEPS[0], folder)


def record(pending: list[tuple[int, dict]], run: Run) -> float:
    """Write the metrics of the last steps; the loss of the newest. Raises TrainingDiverged, naming the step."""
    loss = math.nan
    for step, values in jax.device_get(pending):              # at once: each fetch by itself waits for the device
        values = {k: float(v) for k, v in values.items()}
        run.log(step, values)
        loss = values["loss"]
        if wrong := [k for k, v in values.items() if not math.isfinite(v)]:
            raise TrainingDiverged(f"the loss is {values[wrong[0]]} at step {step} ({wrong[0]}); the last checkpoint "
                                   "is kept. Try a lower learning rate", values)
    return loss


def first_process_says(flag: bool) -> bool:
    """The first process's flag, on all: clocks differ, and a checkpoint is written by all or by none."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


class StopSignal:
    """Turns SIGTERM into a request to stop after the current step; of several processes, any one's, after a step that
    all agree on."""

    def __init__(self):
        self.requested = False

    def requested_at(self, step: int) -> bool:
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


class ProgressLine:
    """Step, loss, studies/s and time left: a live line, or where there is no terminal a plain one every half minute."""

    def __init__(self, steps: int, start: int, batch: int, unit: str):
        self.steps, self.start, self.batch, self.unit = steps, start, batch, unit
        self.console = Console(stderr=True, quiet=jax.process_index() > 0)
        self.progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:.1f} " + unit + "/s"), TimeRemainingColumn(),
            console=self.console, disable=not self.console.is_terminal)
        self.task = self.progress.add_task("train", total=steps, completed=start, loss=math.nan, rate=0.0)
        self.start_time = self.last_printed = time.monotonic()

    def __enter__(self) -> "ProgressLine":
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()

    def show(self, step: int, loss: float):
        now = time.monotonic()
        rate = (step - self.start) * self.batch / max(now - self.start_time, 1e-6)
        self.progress.update(self.task, completed=step, loss=loss, rate=rate)
        if not self.console.is_terminal and now - self.last_printed > PRINT_EVERY_S:
            self.last_printed = now
            left = (self.steps - step) * self.batch / max(rate, 1e-6)
            self.print(f"step {step}/{self.steps}  loss {loss:.4f}  {rate:.1f} {self.unit}/s  {left / 60:.0f} min left")

    def print(self, text: str):
        self.progress.console.print(text, highlight=False, soft_wrap=True)
