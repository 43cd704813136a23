"""ACDC: 100 + 50 patients in five groups with masks at ED and ES; volumes by Simpson from the ground truth."""

import collections
import functools
import logging
from pathlib import Path

from cardiojax.data.study_builder import Source, StudyBuilder, fixed_fraction
from cardiojax.errors import StudyError
from cardiojax.readers.nifti import acdc_info, read_acdc
from cardiojax.study import Study

log = logging.getLogger("cardiojax")

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
TWINS = {"patient074": "patient076"}       # one scan, published twice: the same voxels, contoured by two hands


class Builder(StudyBuilder):
    """Splits: `testing/` is the test split where it is there, else 20 % of each group; 10 % validation. A scan that was
    published twice is one patient's, and in one split."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Register at the ACDC challenge site of CREATIS (Lyon), download the database and unpack it, so that "
        "SOURCE/training/patient001/Info.cfg exists (and SOURCE/testing/patient101/… for the official test "
        "set). CC BY-NC-SA 4.0; cite Bernard et al. 2018.")

    @staticmethod
    def patient_of(study_id: str) -> str:
        return TWINS.get(study_id, study_id)

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir)
        training = patients(root / "training") or patients(root)
        testing = patients(root / "testing")
        if not training and not testing:
            raise StudyError(f"no ACDC patients in {root}: expected training/patient001/Info.cfg")
        splits = split_by_group(training, hold_out=not testing)
        if testing:
            splits["test"] = testing
        return self._splits({name: sources(folders) for name, folders in splits.items()})


def patients(folder: Path) -> list[Path]:
    return sorted(p.parent for p in folder.glob("patient*/Info.cfg"))


def split_by_group(folders: list[Path], hold_out: bool) -> dict[str, list[Path]]:
    """Per group, in the fixed order of the patients' hashes: test (where held out), validation, the rest train. A twin
    then goes to the other, and moves nobody else."""
    groups = collections.defaultdict(list)
    for folder in folders:
        try:
            group = acdc_info(folder).get("Group", "")
        except StudyError:
            group = ""                       # the reader names the fault
        groups[group].append(folder)
    splits = {"train": [], "validation": [], "test": []}
    for members in groups.values():
        members.sort(key=lambda f: fixed_fraction("acdc", f.name))
        test_end = round(TEST_SHARE * len(members))
        validation_end = test_end + round(VALIDATION_SHARE * len(members))
        splits["test" if hold_out else "train"] += members[:test_end]
        splits["validation"] += members[test_end:validation_end]
        splits["train"] += members[validation_end:]
    split_of = {folder.name: name for name, members in splits.items() for folder in members}
    found = collections.defaultdict(list)
    for folder in sorted(folders):
        found[split_of.get(Builder.patient_of(folder.name), split_of[folder.name])].append(folder)
    return {name: found[name] for name in splits if name in found}


def sources(folders: list[Path]) -> list[Source]:
    return [(f.name, functools.partial(read_with_volumes, f)) for f in folders]


def read_with_volumes(folder: Path) -> Study:
    study = read_acdc(folder)
    if study.masks is None:
        log.warning("study %s: no ground truth, so neither masks nor volumes", study.study_id)
        return study
    return study.replace(volumes_ml=study.volumes_from_masks_ml())
