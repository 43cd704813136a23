"""A trained model as one file to give away: safetensors, with its settings among the metadata, and no code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from cardiojax.errors import RunError
from cardiojax.files import digest, write_bytes

ENDING = ".safetensors"
KEY, DIGEST = "cardiojax", "sha256"        # of the metadata: the settings, and a checksum of all that is in the file


def write_one_file(file: Path, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray], half: bool = False):
    """Settings as config.json has them and the arrays of model.npz. half: weights of two axes and more in float16, half
    of the size; they are float32 again when they are read."""
    stored = {name: np.asarray(a.astype(np.float16) if half and fits_half(a) else a, order="C")
              for name, a in sorted(arrays.items())}
    said = json.dumps(settings)
    write_bytes(file, safetensors.numpy.save(stored, {KEY: said, DIGEST: digest(stored, said)}))


def fits_half(a: np.ndarray) -> bool:
    return a.dtype == np.float32 and a.ndim > 1 and bool(np.abs(a).max(initial=0.0) < np.finfo(np.float16).max)


def read_one_file(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays. Raises RunError with one line where the file is damaged or another's."""
    try:
        with safetensors.safe_open(file, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}          # noqa: SIM118  no mapping
        said = metadata.get(KEY)
        settings = json.loads(said) if said else None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise RunError(f"{file} cannot be read ({error})") from None
    if settings is None:
        raise RunError(f"{file} is not a model that `cardiojax export` wrote")
    if said and metadata.get(DIGEST, found := digest(arrays, said)) != found:      # files of before have no checksum
        raise RunError(f"{file} is damaged: its contents do not have its checksum")
    return settings, {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in arrays.items()}
