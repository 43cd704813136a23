"""The run folder: config.json (before step 1), checkpoints/, metrics.jsonl, tensorboard/, model.npz."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as keep
from PIL import Image

from cardiojax.errors import RunError, one_line
from cardiojax.files import one_writer, whole, write_arrays
from cardiojax.models.saved import flatten, read_config, read_metrics, write_config

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

log = logging.getLogger("cardiojax")

LOCK = "lock"              # of the process that writes
# a checkpoint is waited for by the wall clock, which may jump
PATIENT = ocp.options.AsyncOptions(timeout_secs=30 * 24 * 3600)
# of settings that older files lack
OLD_DEFAULTS = {"accumulate": 1, "contours": "none", "contours_weight": 1.0, "phases": 1}


def _let_the_first_process_write():
    """All of a checkpoint: for a share of it each would cut every array, a program of its own to compile."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)                           # it warns that a default is changed
    ocp.type_handlers.register_type_handler(jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False),
                                            override=True)
    absl.setLevel(level)


_let_the_first_process_write()


class Run:
    """One training's folder, opened for writing. Use as a context manager: leaving it finishes every checkpoint.

    Of several processes all write checkpoints, the first alone writes the rest.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        """`settings`: task, preset, config, data, seed, parent. A folder that holds a run must hold the same one."""
        self.path, self.first, self.exit_stack = Path(path), jax.process_index() == 0, contextlib.ExitStack()
        if self.first:
            self._claim(settings)
        barrier("run folder")
        self.checkpoints = ocp.CheckpointManager(
            self.path.absolute() / "checkpoints",
            options=ocp.CheckpointManagerOptions(async_options=PATIENT, preservation_policy=keep.AnyPreservationPolicy([
                keep.LatestN(2), keep.BestN(get_metric_fn=lambda m: m["score"], reverse=True, n=1,
                                            keep_checkpoints_without_metrics=False)])))
        if self.first:
            self.metrics = self.exit_stack.enter_context((self.path / "metrics.jsonl").open("a"))
            self.tensorboard = _event_writer(self.path / "tensorboard")
            self.exit_stack.callback(self.tensorboard.close)
        self.exit_stack.callback(self._finish_checkpoints)           # first of all when it is left

    def _claim(self, settings: dict[str, Any]):
        self.path.mkdir(parents=True, exist_ok=True)
        config = self.path / "config.json"
        if not config.exists() and any(file.name != LOCK for file in self.path.iterdir()):
            raise RunError(f"{self.path} is neither empty nor a run folder")
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_writer(self.path / LOCK, f"{self.path} is being trained by another process"))
            if config.exists():
                _check_same(read_config(self.path), settings, self.path)
            else:
                write_config(self.path, settings)
            self.exit_stack = stack.pop_all()             # until the end, unless it was refused

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_):
        self.exit_stack.close()

    def save(self, step: int, state: Any, data_state: dict, score: float | None = None):
        """Write a checkpoint in the background; the latest two and the one with the lowest `score` are kept."""
        if self.checkpoints.latest_step() == step:
            return
        state = jax.tree.map(_whole, state)
        with self._written():
            self.checkpoints.save(step, args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)),
                metrics=None if score is None else {"score": score})

    def _finish_checkpoints(self):
        with self._written():
            self.checkpoints.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Raises RunError where Orbax has not written a checkpoint: no room, or a limit of time, some of which cannot
        be set and go by the wall clock."""
        try:
            yield
        except (ValueError, TimeoutError) as error:
            raise RunError(f"a checkpoint of {self.path} was not written ({one_line(error)}); the same command goes on "
                           "from the one before") from None

    def restore(self, target: Any) -> tuple[Any, dict] | None:
        """The latest checkpoint that can be read, with the shapes, types and shardings of `target`, and the input's
        state; None where there is none.

        Newer ones that cannot be read are put aside, in damaged_checkpoints/. Raises RunError where none can be.
        """
        steps, errors = sorted(self.checkpoints.all_steps(), reverse=True), []
        for step in steps:
            try:
                restored = self.checkpoints.restore(step, args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore()))
            except (ValueError, KeyError, OSError, RuntimeError) as error:        # of Orbax, tensorstore, JSON, a disk
                errors.append(one_line(error))
                continue
            if errors:
                self._put_aside(steps[:len(errors)])
                log.warning("checkpoint %d of %s cannot be read (%s); going on from step %d, %d before", steps[0],
                            self.path, errors[0], step, steps[0] - step)
            return restored["state"], restored["data"]
        if errors:
            raise RunError(f"no checkpoint of {self.path} can be read ({errors[0]}); with --init {self.path} a new run "
                           "folder starts from its model.npz")
        return None

    def _put_aside(self, steps: list[int]):
        barrier("damaged checkpoints")
        if self.first:
            aside = self.path / "damaged_checkpoints"
            aside.mkdir(exist_ok=True)
            for step in steps:
                (self.path / "checkpoints" / str(step)).replace(aside / str(step))
        barrier("put aside")
        self.checkpoints.reload()

    def best_score(self) -> float:
        """The lowest score of any evaluation so far, infinite where there was none."""
        barrier("metrics")
        return min((line["score"] for line in read_metrics(self.path) if "score" in line), default=float("inf"))

    def log(self, step: int, values: dict[str, float], prefix: str = "train"):
        if not self.first:
            return
        self.metrics.write(json.dumps({"step": step, "kind": prefix, "time": round(time.time(), 3), **values}) + "\n")
        self.metrics.flush()
        for name, value in values.items():
            self.tensorboard.add_scalar(f"{prefix}/{name}", value, step)

    def picture(self, step: int, name: str, picture: np.ndarray):
        """(H, W, 3) uint8 as NAME/step.png, and in TensorBoard."""
        if not self.first:
            return
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        with whole(folder / f"{step:06d}.png") as partial:
            Image.fromarray(picture).save(partial)
        self.tensorboard.add_image(name, picture, step, dataformats="HWC")

    def write_model(self, model: dict[str, Any]):
        if self.first:
            write_arrays(self.path / "model.npz", flatten(model))


def _whole(array: Any) -> Any:
    """The first device's copy, where all have the same and are of this process. Orbax would make each of them write a
    part: on eight devices a thousand slices, for which the training waits."""
    if isinstance(array, jax.Array) and array.is_fully_addressable and array.is_fully_replicated:
        return array.addressable_data(0)
    return array


def barrier(name: str):
    """Wait for the other processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def with_old_defaults(saved: dict, wanted: dict) -> dict:
    """Settings of an older version, with what it did where it lacks one of those of today."""
    def value(key, today):
        if isinstance(today, dict) and isinstance(saved.get(key), dict):
            return with_old_defaults(saved[key], today)
        return saved.get(key, OLD_DEFAULTS.get(key))

    return saved | {key: value(key, today) for key, today in wanted.items()}


def _check_same(saved: dict, settings: dict, path: Path):
    wanted = json.loads(json.dumps(settings))
    saved = with_old_defaults(saved, wanted)
    for key in ("task", "seed", "data", "parent", "judge", "accumulate"):
        if saved.get(key, OLD_DEFAULTS.get(key)) != wanted.get(key, OLD_DEFAULTS.get(key)):
            raise RunError(f"{path} holds a run with {key} {saved.get(key)!r}, not {wanted.get(key)!r}; "
                           "choose another --run or the same settings")
    steps = wanted["config"]["steps"]
    if steps != (of_run := saved["config"]["steps"]):           # the learning rate falls along them
        raise RunError(f"{path} holds a run of {of_run} steps, not {steps}: finish it with --steps {of_run}, or go on "
                       f"from its weights in a new run folder with --init {path}")
    for key, value in wanted["config"].items():
        if (of_run := saved["config"][key]) != value:
            raise RunError(f"{path} holds a run with {key} {of_run!r}, not {value!r}; "
                           "choose another --run or the same settings")


def _event_writer(folder: Path) -> "SummaryWriter":
    """For TensorBoard. Its library imports PyTorch wherever that is installed, for seconds and for tensors that we have
    none of; here it finds none."""
    absent = "torch" not in sys.modules
    try:
        if absent:
            sys.modules["torch"] = None             # pyright: ignore[reportArgumentType]
        from tensorboardX import SummaryWriter
    finally:
        if absent:
            del sys.modules["torch"]
    return SummaryWriter(str(folder))
