"""The predictions of a label curve's cells as one file, which a run elsewhere takes up instead of making them again."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cardiojax.errors import InputError, one_line
from cardiojax.experiment.comparison import Predictions
from cardiojax.experiment.label_arms import Cell, LabelArms
from cardiojax.files import write_text
from cardiojax.train.run import with_old_defaults

FILE = "cells.json"
WHICH = ("seeds", "shares", "taught")       # settings that say which cells there are, not what is in one
ROUNDED_ML = 0.1                            # the truth of an evaluation's predictions.csv may be


def write(arms: LabelArms, ours: dict[Cell, Predictions]):
    """OUT/cells.json: `settings`; EDV, ESV (ml) and EF (percent) of each seed's test studies, in the order of study
    ids, as `truth` and as each cell has them: `ours`, and those that other processes have put there."""
    truth, found = {}, []
    with arms.locked(arms.out / FILE, wait=True):
        for (arm, count, seed), of in (_there(arms) | ours).items():
            truth[str(seed)] = of["truth"].tolist()
            found.append({"arm": arm, "labelled": count, "seed": seed, "predicted": of["predicted"].tolist()})
        write_text(arms.out / FILE, json.dumps({"settings": arms.settings(), "truth": truth, "cells": found}))


def _there(arms: LabelArms) -> dict[Cell, Predictions]:
    """Of OUT/cells.json; none of one that was made with other settings."""
    try:
        return known([arms.out / FILE], arms)
    except InputError:
        return {}


def known(files: Sequence[Path], arms: LabelArms) -> dict[Cell, Predictions]:
    """What such files hold. Raises InputError for one of other settings or test studies."""
    found: dict[Cell, Predictions] = {}
    for file in files:
        settings, cells = _opened(file)
        ours = json.loads(json.dumps(arms.settings()))
        ours, theirs = _compared(ours), _compared(with_old_defaults(settings, ours))
        if different := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
            raise InputError(f"--known {file} was made with other settings: {', '.join(different)}")
        for (arm, count, seed), of in cells.items():
            if seed < len(arms.splits):
                test = arms.splits[seed]["test"]
                if not _same(of["truth"][:, :2], test.volumes_ml) or of["predicted"].shape != of["truth"].shape:
                    raise InputError(f"--known {file} has other test studies than {test.name}")
                found[arm, count, seed] = of
    return found


def _opened(file: Path) -> tuple[dict, dict[Cell, Predictions]]:
    try:
        content = json.loads(file.read_text())
        truth = {int(seed): np.array(rows, float).reshape(-1, 3) for seed, rows in content["truth"].items()}
        return dict(content["settings"]), {(c["arm"], c["labelled"], c["seed"]): {
            "predicted": np.array(c["predicted"], float), "truth": truth[c["seed"]]} for c in content["cells"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--known {file} is no {FILE} of a label curve: {one_line(error)}") from None


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Volumes (ml) of the same studies, in whatever order."""
    return a.shape == b.shape and np.allclose(np.sort(a, axis=0), np.sort(b, axis=0), atol=ROUNDED_ML)


def _compared(settings: dict) -> dict:
    """In one, without those that say which cells there are."""
    config = settings.get("config") or {}
    return {name: value for name, value in [*settings.items(), *config.items()] if name not in ("config", *WHICH)}
