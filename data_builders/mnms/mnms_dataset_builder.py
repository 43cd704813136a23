"""M&Ms: 4D NIfTI of several centres and vendors with masks at ED and ES; volumes by Simpson from the ground truth."""

import functools
from pathlib import Path

from cardiojax.data.study_builder import StudyBuilder, fixed_fraction
from cardiojax.errors import StudyError
from cardiojax.readers import read_nifti_cine
from cardiojax.readers.nifti import existing
from cardiojax.study import Study

FOLDERS = {"train": "Training/Labeled", "validation": "Validation", "test": "Testing"}
VALIDATION_SHARE = 0.1       # of the training patients, where the challenge's validation set is not there


class Builder(StudyBuilder):
    """The challenge's own splits; without its validation set, a tenth of the training patients."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Register at the M&Ms challenge site of the University of Barcelona, download the dataset and unpack it, so "
        "that SOURCE/Training/Labeled/CODE/CODE_sa.nii.gz and CODE_sa_gt.nii.gz exist (and SOURCE/Validation, "
        "SOURCE/Testing likewise). Cite Campello et al. 2021.")

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir)
        splits = {name: found for name, below in FOLDERS.items() if (found := patients(root / below))}
        if "train" not in splits:
            raise StudyError(f"no M&Ms patients in {root}: expected {FOLDERS['train']}/CODE/CODE_sa.nii.gz")
        if "validation" not in splits:
            ordered = sorted(splits["train"], key=lambda f: fixed_fraction("mnms", f.name))
            validation_end = round(VALIDATION_SHARE * len(ordered))
            splits |= {"validation": sorted(ordered[:validation_end]), "train": sorted(ordered[validation_end:])}
        return self._splits({name: [(f.name, functools.partial(read, f)) for f in folders]
                             for name, folders in splits.items() if folders})


def patients(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.is_dir())


def read(folder: Path) -> Study:
    """One patient; ED and ES are the two phases that the ground truth holds. Raises StudyError in one line."""
    cine, masks = (existing(folder, f"{folder.name}_{part}") for part in ("sa", "sa_gt"))
    study = read_nifti_cine(cine, study_id=folder.name, masks=masks)
    return study.replace(volumes_ml=study.volumes_from_masks_ml())
