"""A random share of a cohort as a cohort of its own: the paper's "50 % of the available pretraining data"."""

import json
import shutil
from pathlib import Path

import numpy as np

from cardiojax import files
from cardiojax.data import Split
from cardiojax.synthesis.build import SETTINGS, SHARD, shard_name, write_info, write_shard

DRAWN = "train"            # the split that is drawn from; the others stay as they are


def write_half(training: Split, cohort: Path, folder: Path, seed: int = 0):
    """Write into `folder` (…/synthetic/CONFIG/1.0.0) a random half of the training studies of the whole cohort in
    `cohort`, rounded down and in their order, and its other splits unchanged.

    training: all training studies of that cohort. cohort.json names the members that were drawn.
    """
    whole = json.loads((cohort / SETTINGS).read_text())
    chosen = np.sort(np.random.default_rng(seed).permutation(len(training))[:len(training) // 2]).tolist()
    members = {**whole["members"], DRAWN: [whole["members"][DRAWN][i] for i in chosen]}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / SETTINGS, json.dumps({**whole, "half": {"of": cohort.parent.name, "seed": seed},
                                                    "members": members}))
    lengths = {split: [len(of_split[i:i + SHARD]) for i in range(0, len(of_split), SHARD)]
               for split, of_split in members.items()}
    for split, of_split in lengths.items():
        for i in range(len(of_split)):
            file = folder / shard_name(split, i, len(of_split))
            if split == DRAWN:
                write_shard(file, (training[k] for k in chosen[i * SHARD:(i + 1) * SHARD]))
            else:
                with files.whole(file) as partial:
                    shutil.copyfile(cohort / file.name, partial)
    write_info(folder, lengths)
