"""Files that are whole or not there, however the process ends; arrays as plain .npz; cells of a CSV."""

import os
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cardiojax.errors import RunError

FORMULA = ("=", "+", "-", "@", "\t", "\r")      # what a spreadsheet takes for the beginning of one


def write_text(file: Path, text: str):
    """Whole or not at all, however the process ends."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes):
    """The same of bytes."""
    partial = _partial(file)
    partial.write_bytes(content)
    os.replace(partial, file)


def _partial(file: Path) -> Path:
    """Where a file is written before it gets its name: several processes may write it."""
    return file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.partial")


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]):
    """Named arrays as one .npz, atomically."""
    partial = _partial(file)
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
    os.replace(partial, file)


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


def cell(text: str) -> str:
    """Text as a CSV's cell: after an apostrophe where a spreadsheet would run it as a formula, for names come from
    strangers' files."""
    return f"'{text}" if _marked(text) else text


def text_of(cell: str) -> str:
    """What `cell` was made of."""
    return cell[1:] if cell[:1] == "'" and _marked(cell) else cell


def _marked(text: str) -> bool:
    """Whether a formula follows any apostrophes: one that is the text's own gets another, so that none is lost."""
    return text.lstrip("'").startswith(FORMULA)
