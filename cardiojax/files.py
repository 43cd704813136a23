"""Files that are whole or not there, however the process ends, and have one writer; arrays as plain .npz; cells of a
CSV."""

import contextlib
import csv
import hashlib
import io
import os
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import filelock
import numpy as np

from cardiojax.errors import RunError

FORMULA = ("=", "+", "-", "@", "\t", "\r")      # what a spreadsheet takes for the beginning of one


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path to write to, which gets its name once all is written: a file is whole or not there, however the process
    ends. The path is its own: several processes may write the same file, and the last one's stays."""
    partial = file.with_name(f"partial-{uuid.uuid4().hex[:8]}-{file.name}")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(file: Path, content: bytes):
    """Whole or not at all."""
    with whole(file) as partial:
        partial.write_bytes(content)


def write_text(file: Path, text: str):
    write_bytes(file, text.encode())


def write_rows(file: Path, rows: Iterable[Iterable[object]]):
    """A CSV, the header first; whole or not at all."""
    content = io.StringIO(newline="")
    csv.writer(content).writerows(rows)
    write_text(file, content.getvalue())


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]):
    """Named arrays as one .npz, whole or not at all. Its comment is a checksum: those of a zip's parts do not tell that
    one is missing."""
    with whole(file) as partial:
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)
        with zipfile.ZipFile(partial, "a") as archive:
            archive.comment = digest(arrays).encode()


def digest(arrays: Mapping[str, np.ndarray], words: str = "") -> str:
    """A checksum of named arrays, and of what belongs to them."""
    total = hashlib.sha256(words.encode())
    for name, a in sorted(arrays.items()):
        total.update(f"{name} {a.dtype} {a.shape}".encode() + a.tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def one_writer(file: Path, refusal: str) -> Iterator[None]:
    """Only one process at a time gets here with the same `file`, a lock that ends with the process. Raises RunError
    where another is there; where the file system knows no locks nobody is kept out."""
    lock = filelock.FileLock(file, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(refusal) from None
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()                              # while it is ours
        lock.release()


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a model.npz. Raises RunError where there is none yet."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found, said = {name: arrays[name] for name in arrays.files}, arrays.zip.comment.decode()
    except FileNotFoundError:
        raise RunError(f"{file.parent} has no {file.name} yet: its training has not reached an evaluation; "
                       "run the same train command again") from None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise RunError(f"{file} cannot be read ({error})") from None
    if said and said != digest(found):                         # files of before have no checksum
        raise RunError(f"{file} is damaged: its contents do not have its checksum")
    return found


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
