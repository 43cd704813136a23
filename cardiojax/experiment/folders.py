"""The stages of an experiment: run folders, cohorts and evaluations, each named after what it was made from.

So a stopped experiment goes on where it was, and a changed setting redoes what depends on it and nothing else. Several
processes may share one experiment, for instance one a GPU: each takes stages that no other is making.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import filelock
import jax
import numpy as np

from cardiojax import data
from cardiojax.evaluate import report
from cardiojax.experiment.comparison import folder_name
from cardiojax.files import write_text
from cardiojax.models import load_measuring
from cardiojax.provenance import commit

log = logging.getLogger("cardiojax")

DONE = "stage.json"        # in a finished stage's folder: what it was made from, and the seconds it took
STUDIES = "studies.txt"    # in an evaluation's: the fingerprint of those that were measured
POLL_S = 2                 # between looks at stages that other processes are at
Key = TypeVar("Key", bound=tuple)
Made = TypeVar("Made")


class NotMade(Exception):
    """A stage is not there, and `make` is False."""


class Busy(Exception):
    """Another process is making a stage."""


class Folders:
    """Makes each stage once, in the order in which they are asked for; with `make` False they must be there."""

    def __init__(self, out: Path, make: bool = True):
        self.out, self.make = out.absolute(), make
        self.paths: dict[str, str] = {}          # of the stages asked for, below `out`
        self.fingerprints: dict[int, tuple[data.Split, str]] = {}        # by id, which is a split's while it is kept

    def stage(self, name: str, made_from: dict, work: Callable[[Path], object], below: str = "stages",
              inside: str = "") -> Path:
        """The folder of a stage; `work` makes it where it is not finished."""
        folder = self.out / below / f"{name}_{digest(made_from)}" / inside
        self.paths[name] = str(folder.relative_to(self.out))
        if (folder / DONE).exists():
            return folder
        if not self.make:
            raise NotMade(name)
        with self.locked(folder):
            if not (folder / DONE).exists():
                log.info("stage %s → %s", name, folder.relative_to(self.out))
                began = time.monotonic()
                work(folder)
                write_text(folder / DONE, json.dumps({"made_from": made_from, "commit": commit(), "device":
                                                      jax.devices()[0].device_kind, "devices": len(jax.devices()),
                                                      "seconds": round(time.monotonic() - began, 1)}, indent=2))
                jax.clear_caches()
        return folder

    def studies_of(self, split: data.Split) -> str:
        """The split's fingerprint, read once."""
        kept, found = self.fingerprints.get(id(split), (None, ""))
        if kept is None:
            self.fingerprints[id(split)] = split, (found := fingerprint(split))
        return found

    @contextlib.contextmanager
    def locked(self, folder: Path, wait: bool = False) -> Iterator[None]:
        """Hold the lock of `folder`, which ends with the process. Raises Busy where another process has it, unless
        `wait`."""
        file = self.out / "locks" / "_".join(folder.relative_to(self.out).parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(file, timeout=-1 if wait else 0):
                yield
        except filelock.Timeout:
            raise Busy(folder.name) from None

    def evaluated(self, run: Path, split: data.Split) -> dict:
        """A run on a split: metrics.json, predictions.csv and figures in RUN/evaluations; once for these studies."""
        folder, studies = run / "evaluations" / folder_name(split.name), self.studies_of(split)

        def there() -> bool:
            of = folder / STUDIES                          # evaluations of before lack it
            return (folder / "metrics.json").exists() and (not of.exists() or of.read_text() == studies)

        if not there():
            if not self.make:
                raise NotMade(f"{run.name} on {split.name}")
            with self.locked(folder):
                if not there():
                    report.evaluate(load_measuring(run), split, folder)
                    write_text(folder / STUDIES, studies)
        return json.loads((folder / "metrics.json").read_text())


def ready(waiting: dict[Key, Callable[[], Made]]) -> Iterator[tuple[Key, Made]]:
    """What each of these makes, as it is ready: what other processes are at comes later. What is not there, and is not
    to be made, is named in the log."""
    missing, told = [], False
    while waiting:
        busy = dict(waiting)
        for key, make in waiting.items():
            try:
                yield key, make()
            except Busy:
                continue
            except NotMade:
                missing.append(" ".join(map(str, key)))
            del busy[key]
        if len(busy) == len(waiting):
            if not told:
                log.info("waiting for other processes that are at what %d trainings need", len(busy))
            told = True
            time.sleep(POLL_S)
        waiting = busy
    if missing:
        log.warning("not there yet: %s", ", ".join(missing))


def digest(made_from: dict) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]


def fingerprint(split: data.Split) -> str:
    """Changes with any study of a split."""
    total = hashlib.sha256(split.volumes_ml.tobytes() + split.slice_spacing_mm.tobytes())
    for i in range(len(split)):
        study = split[i]
        total.update(study.study_id.encode())
        total.update(np.ascontiguousarray(study.frames).tobytes())
        total.update(b"" if study.masks is None else np.ascontiguousarray(study.masks).tobytes())
    return total.hexdigest()[:16]
