"""The files of a run folder: config.json, metrics.jsonl, and the arrays of model.npz as network states."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cardiojax.errors import RunError
from cardiojax.files import write_text
from cardiojax.provenance import commit, versions

FORMAT = 1
TASKS = {"sfera": "SFERA", "gaugan": "GauGAN", "contours": "contours", "hybrid": "hybrid"}


def read_config(path: Path, task: str | None = None) -> dict[str, Any]:
    """config.json of a run folder. Raises RunError where it is none, is of a later format than this version reads, or
    is of another task than the one asked for."""
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise RunError(f"{path} is not a run folder (no config.json)") from None
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{file} cannot be read ({error})") from None
    if config.get("format") != FORMAT:
        raise RunError(f"{path} has run format {config.get('format')}, this version reads {FORMAT}")
    if task is not None and config["task"] != task:
        raise RunError(f"{path} is a {config['task']} run, not a {TASKS[task]} run")
    return config


def write_config(run: Path, settings: dict[str, Any]):
    """config.json of a run folder: these settings, the format, and which code wrote it."""
    write_text(Path(run) / "config.json", json.dumps(
        {"format": FORMAT, **settings, "versions": versions(), "commit": commit()}, indent=2))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; a killed process may have cut one off."""
    file, lines = Path(run) / "metrics.jsonl", []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    if isinstance(tree, nnx.State):
        tree = nnx.to_pure_dict(tree)
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items() for k, v in flatten(sub, f"{prefix}/{name}".lstrip("/")).items()}
    return {prefix: np.asarray(tree)}


def into_state(shapes: nnx.State, arrays: dict[str, np.ndarray], prefix: str) -> nnx.State:
    """An NNX state of these shapes from the arrays below `prefix`. Raises RunError where they do not fit."""
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

    state = jax.tree.map(lambda leaf: leaf, shapes)
    nnx.replace_by_pure_dict(state, fill(nnx.to_pure_dict(shapes), prefix))
    return state
