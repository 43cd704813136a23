"""The synthetic cohort: mask pairs of real patients → images → records, shard by shard.

A shard's members, and the batches that its images are made in, follow from the cohort's settings alone, and it gets its
name only when it is whole. So any number of processes share a build through its folder alone. A build that was killed
goes on at the loss of one shard's work; on CPU it ends in the same bytes.
"""

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float, UInt8
from tensorflow_datasets.core import file_adapters, naming
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.splits import SplitDict
from tqdm import tqdm

from cardiojax.data import Split, records
from cardiojax.errors import DataError, InputError, RunError
from cardiojax.files import whole, write_text
from cardiojax.models.gaugan import GauganModel, to_uint8
from cardiojax.preparation import SIZE_PX
from cardiojax.preparation.batch import halve, single_frames
from cardiojax.provenance import commit
from cardiojax.study import Study
from cardiojax.synthesis import masks
from cardiojax.synthesis.cohort import Member, fingerprint, plan, shares
from cardiojax.synthesis.consistency import steady_background
from cardiojax.synthesis.masks import Recipe, Shapes
from cardiojax.synthesis.warping import warped

log = logging.getLogger("cardiojax")

NAME, VERSION = "synthetic", "1.0.0"
SHARD = 32                 # studies
RealEf = Callable[[str], Float[np.ndarray, " n"]]      # NAME of a dataset → EF (percent) of its studies
SETTINGS = "cohort.json"   # beside the shards: settings, figures, and the members in order


@dataclasses.dataclass(frozen=True)
class CohortSettings:
    """What a cohort is made by, besides the real masks and the generator's weights."""

    distribution: str = "uniform"
    size: int | None = None
    seed: int = 0
    consistency: str = "none"


def build_cohort(generator: GauganModel | None, splits: Mapping[str, Split], folder: Path, settings: CohortSettings,
                 real_ef: RealEf, process: int = 0, processes: int = 1) -> dict:
    """Write this process's shards into `folder` (…/synthetic/CONFIG/1.0.0), and the dataset's info once all are there.

    generator: the generator; None warps the real images instead (`warping`).
    splits: real studies by the name of the split that their descendants go to.
    Returns what cohort.json holds. Raises InputError where the masks, the generator or the folder do not fit.
    """
    patients = {name: studies_with_masks(split) for name, split in splits.items()}
    if generator is not None:
        labels = {int(label) for s in patients.values() for study in s for label in np.unique(study.masks)}
        if unknown := labels - set(generator.labels):
            raise InputError(f"the masks hold label {min(unknown)}, which the generator {generator.path} never saw")
    cohort = planned(patients, generator, folder, settings, real_ef)
    chosen = {split: [Member(m["patient"], Recipe(*m["recipe"]), m["ef_percent"]) for m in members]
              for split, members in cohort["members"].items()}
    shards = [(split, i, count) for split, members in chosen.items()
              for count in [-(-len(members) // SHARD)] for i in range(count)]
    names = {shard: folder / shard_name(*shard) for shard in shards}
    mine = [s for s in shards[process::processes] if not names[s].exists()]
    studies = sum(len(chosen[split][i * SHARD:(i + 1) * SHARD]) for split, i, _ in mine)
    with tqdm(total=studies, unit=" studies", desc="synthesis", mininterval=1, disable=None) as bar:
        for split, i, count in mine:
            members = chosen[split][i * SHARD:(i + 1) * SHARD]
            write_shard(names[split, i, count], synthesised(members, patients[split], generator, settings.consistency))
            bar.update(len(members))
            if bar.disable:
                log.info("%s: %d studies", names[split, i, count].name, len(members))
    if missing := [s for s in shards if not names[s].exists()]:
        log.info("process %d of %d is done; %d of %d shards are still being made elsewhere (or start this again)",
                 process, processes, len(missing), len(shards))
    else:
        write_info(folder, {split: [len(members[i:i + SHARD]) for i in range(0, len(members), SHARD)]
                            for split, members in chosen.items()})
    return cohort


def studies_with_masks(split: Split) -> list[Study]:
    """Raises DataError where there are none."""
    found = [s for s in split if s.has_lv]
    if not found:
        raise DataError(f"{split.name} has no study with an LV in its masks to descend from")
    if left := len(split) - len(found):
        log.warning("%s: %d of %d studies have no masks of an LV and no descendants", split.name, left, len(split))
    return found


def planned(patients: Mapping[str, Sequence[Study]], generator: GauganModel | None, folder: Path,
            settings: CohortSettings, real_ef: RealEf) -> dict:
    """The cohort of cohort.json; planned and written where there is none yet.

    Raises RunError where the folder holds a cohort of other settings.
    """
    identity = {"settings": dataclasses.asdict(settings), "patients": fingerprint(patients),
                "generator": "warp" if generator is None else weights_digest(generator), "shard": SHARD}
    file = folder / SETTINGS
    if file.exists():
        cohort = json.loads(file.read_text())
        if different := [k for k, v in identity.items() if cohort.get(k) != v]:
            raise RunError(f"{folder} holds a cohort with other {' and '.join(different)}; "
                           "--overwrite makes it anew, --config NAME keeps both")
        return cohort
    share = shares(settings.distribution, real_ef)
    measured_by = shares("uniform", real_ef) if share is None else share
    found = plan(patients, share, settings.size, settings.seed,
                 lambda them: tqdm(them, unit=" patients", desc="masks", disable=None, leave=False))
    cohort = {**identity, "commit": commit(), "gaugan": None if generator is None else str(generator.path),
              "splits": {split: choice.figures(measured_by) for split, choice in found.items()},
              "members": {split: [{"patient": m.patient, "study_id": name(patients[split][m.patient], m.recipe),
                                   "recipe": dataclasses.astuple(m.recipe), "ef_percent": m.ef_percent}
                                  for m in choice.members] for split, choice in found.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(cohort))
    return cohort


def weights_digest(generator: GauganModel) -> str:
    if generator.path is None:
        raise RunError("a cohort is made by the generator of a run folder or a file")
    file = generator.path / "model.npz" if generator.path.is_dir() else generator.path
    return hashlib.sha256(file.read_bytes()).hexdigest()


def name(ancestor: Study, recipe: Recipe) -> str:
    finer = f"of{recipe.density}" if recipe.density > 1 else ""
    return f"{ancestor.study_id}_{recipe.kind}{recipe.step:02d}{finer}"


def synthesised(members: Sequence[Member], patients: Sequence[Study], generator: GauganModel | None, consistency: str
                ) -> Iterator[Study]:
    """The studies of one shard, a generator's images made together."""
    shapes: dict[int, Shapes] = {}
    pairs = []
    for m in members:
        if m.patient not in shapes:
            shapes = {m.patient: Shapes(patients[m.patient].masks)}       # members come patient by patient
        pairs.append(shapes[m.patient].pair(m.recipe))
    ancestors = [patients[m.patient] for m in members]
    images = frames_of(ancestors, pairs, generator, consistency)
    for member, ancestor, pair, frames in zip(members, ancestors, pairs, images, strict=True):
        yield Study(study_id=name(ancestor, member.recipe), masks=pair, frames=frames,
                    slice_spacing_mm=masks.SPACING_MM, volumes_ml=masks.volumes_ml(pair), source=ancestor.source,
                    ancestor=ancestor.study_id)


def frames_of(ancestors: Sequence[Study], pairs: Sequence[np.ndarray], generator: GauganModel | None, consistency: str
            ) -> Iterator[UInt8[np.ndarray, "s h w 2"]]:
    """The frames (0–255) of each pair of masks: slice, row, column, ED and ES."""
    if generator is None:
        yield from map(warped, ancestors, pairs)
        return
    styles = None
    if consistency == "style":
        styles = np.concatenate([ancestral_style(a, generator) for a in ancestors])
    for pair, frames in zip(pairs, generator.stacks(pairs, styles), strict=True):
        yield to_uint8(steady_background(frames, pair) if consistency == "background" else frames)


def ancestral_style(ancestor: Study, generator: GauganModel) -> Float[np.ndarray, "1 256"]:
    """One style for all frames of a study: the mean over the real ancestor's frames."""
    frames = ancestor.frames if generator.net.size_px == SIZE_PX else halve(ancestor.frames)
    return generator.styles(single_frames(frames) / np.float32(127.5) - 1).mean(0, keepdims=True)


def shard_name(split: str, index: int, count: int) -> str:
    return f"{NAME}-{split}.array_record-{index:05d}-of-{count:05d}"


def write_shard(file: Path, studies: Iterator[Study]):
    """Whole or not at all, however the process ends. Raises InputError where the disk is full."""
    try:
        with whole(file) as partial:
            writer = ArrayRecordWriter(str(partial), "group_size:1")
            for study in studies:
                writer.write(records.serialise(study))
            writer.close()
    except RuntimeError as error:             # ArrayRecord's error where a file cannot be written
        raise InputError(f"{file.name} cannot be written ({str(error).partition(';')[0]}); with room for it the same "
                         "command goes on") from None


def is_whole(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists()


def write_info(folder: Path, lengths: Mapping[str, list[int]]):
    """Write dataset_info.json and features.json, by which TFDS opens the shards; remove partial files of killed
    processes."""
    for leftover in folder.glob("partial-*"):
        leftover.unlink(missing_ok=True)
    config = folder.parent.name
    aside = Path(tempfile.mkdtemp(prefix="info-", dir=folder.parent))
    info = tfds.core.DatasetInfo(
        builder=DatasetIdentity(name=NAME, version=tfds.core.Version(VERSION), data_dir=str(aside), module_name="",
                                config_name=config, release_notes={}),
        description="Synthetic studies: masks descended from real patients' ones, painted by a GauGAN.",
        features=records.features(), disable_shuffling=True)
    info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
    info.set_splits(SplitDict([tfds.core.SplitInfo(
        name=split, shard_lengths=list(of_split),
        num_bytes=sum((folder / shard_name(split, i, len(of_split))).stat().st_size for i in range(len(of_split))),
        filename_template=naming.ShardedFileTemplate(
            data_dir=folder, dataset_name=NAME, split=split, filetype_suffix="array_record"))
        for split, of_split in lengths.items()]))
    info.write_to_directory(aside)
    for file in sorted(aside.iterdir(), key=lambda f: f.name == "dataset_info.json"):      # the one that counts, last
        os.replace(file, folder / file.name)
    aside.rmdir()
