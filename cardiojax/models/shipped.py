"""The models that come with the package: `weights/index.json` says what each is and what its file must be."""

import functools
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from cardiojax.errors import RunError
from cardiojax.models.one_file import read_one_file

FOLDER = Path(str(files(__package__))) / "weights"
DEFAULT = "contours-small"             # what measures a study where nothing else is said


@functools.cache
def index() -> dict[str, dict[str, Any]]:
    """By name: file, sha256, task, parts (a hybrid's), does, data, command, seed, commit, licence, figures."""
    return json.loads((FOLDER / "index.json").read_text())


def read_shipped(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays. Raises RunError where the file is not the one that was shipped."""
    entry = index()[name]
    file = FOLDER / entry["file"]
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error})") from None
    if found != entry["sha256"]:
        raise RunError(f"{file} is damaged: its sha256 is not the one in index.json; install cardiojax again")
    settings, arrays = read_one_file(file)
    for role, part in entry.get("parts", {}).items():
        settings[role], of_part = read_shipped(part)
        arrays |= {f"{role}/{key}": a for key, a in of_part.items()}
    return settings, arrays
