"""The run folder: config.json (before step 1), checkpoints/, metrics.jsonl, tensorboard/, model.npz."""

import json
import os
import subprocess
import time
import uuid
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as keep
from PIL import Image
from tensorboardX import SummaryWriter

from cardiojax.errors import RunError

FORMAT = 1
OF_OLD = {"accumulate": 1}         # what a run was made with that does not say
LIBRARIES = ("cardiojax", "jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def commit() -> str:
    """The commit of the checkout that runs, with "+" where it was changed; empty outside of one."""
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True,
                              check=True).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found


class Run:
    """One training's folder, opened for writing. Use as a context manager: leaving it finishes every checkpoint.

    Of several processes all write checkpoints, the first alone writes the rest.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        """`settings`: task, preset, config, data, seed, parent. A folder that holds a run must hold the same one."""
        self.path, self.first = Path(path), jax.process_index() == 0
        if self.first:
            self._claim(settings)
        together("run folder")
        self.checkpoints = ocp.CheckpointManager(
            self.path.absolute() / "checkpoints",
            options=ocp.CheckpointManagerOptions(preservation_policy=keep.AnyPreservationPolicy([
                keep.LatestN(1), keep.BestN(get_metric_fn=lambda m: m["score"], reverse=True, n=1,
                                            keep_checkpoints_without_metrics=False)])))
        if self.first:
            self.metrics = (self.path / "metrics.jsonl").open("a")
            self.tensorboard = SummaryWriter(str(self.path / "tensorboard"))

    def _claim(self, settings: dict[str, Any]):
        self.path.mkdir(parents=True, exist_ok=True)
        config = self.path / "config.json"
        if config.exists():
            _check_same(read_config(self.path), settings, self.path)
        elif any(self.path.iterdir()):
            raise RunError(f"{self.path} is neither empty nor a run folder")
        else:
            write_text(config, json.dumps({"format": FORMAT, **settings, "versions": versions(), "commit": commit()},
                                          indent=2))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_):
        self.checkpoints.close()
        if self.first:
            self.metrics.close()
            self.tensorboard.close()

    def save(self, step: int, state: Any, data_state: dict, score: float | None = None):
        """Write a checkpoint in the background; the latest and the one with the lowest `score` are kept."""
        if self.checkpoints.latest_step() == step:
            return
        self.checkpoints.save(step, args=ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)),
            metrics=None if score is None else {"score": score})

    def restore(self, like: Any) -> tuple[Any, dict] | None:
        """The latest complete checkpoint, placed as `like` says (shapes, types, shardings), and the input's state; None
        where there is none."""
        step = self.checkpoints.latest_step()
        if step is None:
            return None
        restored = self.checkpoints.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()))
        return restored["state"], restored["data"]

    def best_score(self) -> float:
        """The lowest score of any evaluation so far, infinite where there was none."""
        together("metrics")
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
        Image.fromarray(picture).save(folder / f"{step:06d}.png")
        self.tensorboard.add_image(name, picture, step, dataformats="HWC")

    def write_model(self, model: dict[str, Any]):
        if self.first:
            write_arrays(self.path / "model.npz", model)


def together(what: str):
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def _check_same(found: dict, settings: dict, path: Path):
    wanted = json.loads(json.dumps(settings))
    for key in ("task", "seed", "data", "parent", "judge", "accumulate"):
        if found.get(key, OF_OLD.get(key)) != wanted.get(key, OF_OLD.get(key)):
            raise RunError(f"{path} holds a run with {key} {found.get(key)!r}, not {wanted.get(key)!r}; "
                           "choose another --run or the same settings")
    for key, value in wanted["config"].items():
        if key != "steps" and found["config"].get(key) != value:
            raise RunError(f"{path} holds a run with {key} {found['config'].get(key)!r}, not {value!r}; "
                           "choose another --run or the same settings")


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a run folder. Raises RunError where it is none, or of a later format than this version reads."""
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise RunError(f"{path} is not a run folder (no config.json)") from None
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{file} cannot be read ({error})") from None
    if config.get("format") != FORMAT:
        raise RunError(f"{path} has run format {config.get('format')}, this version reads {FORMAT}")
    return config


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; a killed process may have cut one off."""
    file, lines = Path(run) / "metrics.jsonl", []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def write_text(file: Path, text: str):
    """Whole or not at all, however the process ends."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.partial")         # several processes may write it
    partial.write_text(text)
    os.replace(partial, file)


def write_arrays(file: Path, tree: dict[str, Any]):
    """A nested model (dicts, NNX states, named tuples of arrays) as one .npz with "a/b/c" names, atomically."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **flatten(tree))
    os.replace(partial, file)


def flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    if isinstance(tree, nnx.State):
        tree = nnx.to_pure_dict(tree)
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items() for k, v in flatten(sub, f"{prefix}/{name}".lstrip("/")).items()}
    return {prefix: np.asarray(tree)}


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a model.npz. Raises RunError where there is none yet."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise RunError(f"{file.parent} has no {file.name} yet: its training has not reached an evaluation; "
                       "run the same train command again") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{file} cannot be read ({error})") from None


def into_state(like: nnx.State, arrays: dict[str, np.ndarray], prefix: str) -> nnx.State:
    """An NNX state of the shape of `like` from the arrays below `prefix`. Raises RunError where they do not fit."""
    def fill(tree: dict, at: str) -> dict:
        out = {}
        for name, sub in tree.items():
            key = f"{at}/{name}"
            if isinstance(sub, dict):
                out[name] = fill(sub, key)
                continue
            if key not in arrays or arrays[key].shape != sub.shape:
                raise RunError(f"the run's model does not fit its config: {key} "
                               f"{arrays[key].shape if key in arrays else 'is missing'}, expected {sub.shape}")
            out[name] = arrays[key]
        return out

    state = jax.tree.map(lambda leaf: leaf, like)
    nnx.replace_by_pure_dict(state, fill(nnx.to_pure_dict(like), prefix))
    return state
