"""Where a model is kept: a run folder (config.json, metrics.jsonl, model.npz), one file, or the package; its arrays as
network states."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from cardiojax.errors import RunError, one_line
from cardiojax.files import read_arrays, write_text
from cardiojax.models.one_file import read_one_file
from cardiojax.models.shipped import index, read_shipped
from cardiojax.provenance import commit, versions

FORMAT = 1
HUB = re.compile(r"hf:/{1,2}")             # a Path has one slash
TASKS = {"sfera": "SFERA", "gaugan": "GauGAN", "contours": "contours", "hybrid": "hybrid"}


class Opened(NamedTuple):
    """A model's settings (config.json), its arrays by name (model.npz), and where they are from."""

    settings: dict[str, Any]
    arrays: dict[str, np.ndarray]
    path: Path


def opened(model: str | Path, task: str | None = None) -> Opened:
    """A model of a run folder, of a file that `cardiojax export` wrote, of the Hugging Face hub
    (hf://OWNER/REPOSITORY/FILE), or one that ships, by its name.

    Raises RunError where there is none, it is of another version, or of another task than the one asked for.
    """
    path = Path(model)
    if HUB.match(str(model)):
        path = from_hub(str(model))
    if not path.exists() and str(model) in index():
        settings, arrays = read_shipped(str(model))
    elif path.is_file():
        settings, arrays = read_one_file(path)
    else:
        settings = read_config(path, task)
        return Opened(settings, read_arrays(path / "model.npz"), path)
    return Opened(checked(settings, path, task), arrays, path)


def from_hub(address: str) -> Path:
    """The file of hf://OWNER/REPOSITORY/FILE, downloaded once."""
    try:
        import huggingface_hub
    except ImportError:
        raise RunError(f"{address} needs `pip install 'cardiojax[hub]'`") from None
    owner, repository, *inside = HUB.sub("", address).split("/")
    try:
        return Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", "/".join(inside) or "model.safetensors"))
    except (OSError, ValueError) as error:               # no such file, no network, no such name
        raise RunError(f"{address} cannot be had ({one_line(error)})") from None


def read_config(path: Path, task: str | None = None) -> dict[str, Any]:
    """config.json of a run folder. Raises RunError where it is none, is of a later format than this version reads, or
    is of another task than the one asked for."""
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise RunError(f"{path} is not a run folder (no config.json), nor a model that ships ({', '.join(index())})"
                       ) from None
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{file} cannot be read ({error})") from None
    return checked(config, path, task)


def checked(settings: dict[str, Any], path: Path, task: str | None) -> dict[str, Any]:
    if settings.get("format") != FORMAT:
        raise RunError(f"{path} has run format {settings.get('format')}, this version reads {FORMAT}")
    if task is not None and settings["task"] != task:
        raise RunError(f"{path} is a {settings['task']} run, not a {TASKS[task]} run")
    return settings


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
