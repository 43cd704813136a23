"""The figures of each study of a split, by one process or by several that share its batches."""

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cardiojax.data import Split, max_slices
from cardiojax.evaluate.metrics import with_ef
from cardiojax.evaluate.overlap import compared
from cardiojax.files import digest, write_text
from cardiojax.models.measuring import MeasuringModel

BATCH = 8


def measured(model: MeasuringModel, split: Split, out: Path, process: int = 0, processes: int = 1
             ) -> list[dict] | None:
    """Of each study in order: row (of predictions.csv), predicted_ml, truth_ml, masks (`overlap.compared`, or None).

    Of several processes each measures its share of the batches, which are those that one alone would make, and leaves
    the figures in OUT; whoever finds all of them has the whole, the others None. What an evaluation of another model or
    split has left there is not taken.
    """
    slices = max_slices(split)
    if processes == 1:
        return figures_of(model, split, slices)
    mine = np.flatnonzero(np.arange(len(split)) // BATCH % processes == process)
    figures = figures_of(model, split.subset(mine, split.name), slices)
    identity = digest({**model.arrays(), "volumes_ml": split.volumes_ml}, split.name)
    folder = parts_of(out, processes)
    folder.mkdir(exist_ok=True)
    write_text(folder / f"{process}.json", json.dumps(
        {"of": identity, "figures": dict(zip(mine.tolist(), figures, strict=True))}))
    found: dict[str, dict] = {}
    for i in range(processes):
        try:
            part = json.loads((folder / f"{i}.json").read_text())
        except FileNotFoundError:                       # still at work, or another has put all together
            return None
        if part["of"] != identity:
            return None
        found |= part["figures"]
    return [found[str(i)] for i in range(len(split))]


def parts_of(out: Path, processes: int) -> Path:
    """Where they lie until the whole is written."""
    return out / f"parts-of-{processes}"


def figures_of(model: MeasuringModel, split: Split, slices: int) -> list[dict]:
    """`measured` in this process alone; slices: to pad all studies to."""
    found = []
    for study, p in tqdm(model.predict_many(split, BATCH, slices), total=len(split), unit=" studies", desc="evaluation",
                         disable=None, leave=False):
        assert study.volumes_ml is not None          # `open_split` has left such studies out
        true = with_ef(np.asarray(study.volumes_ml, np.float64)[None])[0]
        found.append({
            "row": {**p.row(), **{f"true_{name}": f"{v:.2f}" for name, v in
                                  zip(("edv_ml", "esv_ml", "ef_percent"), true, strict=True)}},
            "predicted_ml": [p.edv_ml, p.esv_ml], "truth_ml": true[:2].tolist(),
            "masks": compared(p, study) if model.sees_masks and study.has_lv else None})
    return found
