"""Records → batches: TFDS `data_source` → grain → padded, masked, prefetched arrays, split by process."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grain.python as grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from cardiojax import records, units
from cardiojax.errors import DataError
from cardiojax.preprocess import SIZE_PX
from cardiojax.study import Study

log = logging.getLogger("cardiojax")


@functools.partial(jax.tree_util.register_dataclass,
                   data_fields=["frames", "n_slices", "slice_spacing_mm", "volumes_ml", "area_mm2", "real"],
                   meta_fields=["budget", "groups"])
@dataclasses.dataclass(frozen=True)
class Batch:
    """Studies padded to one number of slices.

    frames: (B, S, H, W, 2) uint8; n_slices: (B,) int32, the first so many of S are real.
    slice_spacing_mm: (B,); volumes_ml: (B, 2), NaN where unknown.
    area_mm2: (B, S, 2) LV area at ED and ES, NaN on padding and where there are no masks.
    real: (B,) bool, False for studies that only fill up the last batch.
    budget: static bound on the real slices of each of `groups` equal parts of the studies, one part a device
        (`nets.sfera.Sfera`).
    """

    frames: np.ndarray
    n_slices: np.ndarray
    slice_spacing_mm: np.ndarray
    volumes_ml: np.ndarray
    area_mm2: np.ndarray
    real: np.ndarray
    budget: int | None = None
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class Split:
    """Studies of one or more `NAME:SPLIT`, by index, and what a first pass over them found."""

    name: str
    source: Sequence[dict]
    index: np.ndarray                 # the usable records
    volumes_ml: np.ndarray            # (N, 2)
    slice_spacing_mm: np.ndarray      # (N,)
    n_slices: np.ndarray              # (N,)
    ancestors: frozenset[str]         # real patients behind the records

    def __len__(self) -> int:
        return len(self.index)

    def study(self, i: int) -> Study:
        return records.decode(self.source[int(self.index[i])])


class _Joined:
    """Several data sources as one random-access source."""

    def __init__(self, sources: list[Sequence[dict]]):
        self.sources, self.ends = sources, np.cumsum([len(s) for s in sources])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, i: int) -> dict:
        which = int(np.searchsorted(self.ends, i, side="right"))
        return self.sources[which][i - (self.ends[which - 1] if which else 0)]


def open_split(spec: str, data_dir: Path, need_volumes: bool = True) -> Split:
    """`NAME[/CONFIG]:SPLIT[,NAME:SPLIT…]` under `data_dir`. Studies without volumes are left out by name.

    Raises DataError where a dataset is not built or a split does not exist or is empty.
    """
    return usable(spec, _Joined([_open_one(s.strip(), data_dir) for s in spec.split(",")]), need_volumes)


def usable(name: str, source: Sequence[dict], need_volumes: bool = True) -> Split:
    """A split of these records, but for those without volumes."""
    index, volumes, spacings, slices, ancestors = [], [], [], [], set()
    for i in range(len(source)):
        study = records.decode(source[i])
        v = np.full(2, np.nan) if study.volumes_ml is None else study.volumes_ml
        if need_volumes and np.isnan(v).any():
            log.warning("study %s: no volumes, left out of %s", study.study_id, name)
            continue
        index.append(i)
        volumes.append(v)
        spacings.append(study.slice_spacing_mm)
        slices.append(len(study))
        ancestors.add(f"{study.source}/{study.ancestor or study.study_id}")
    if not index:
        raise DataError(f"{name} holds no usable study")
    return Split(name, source, np.array(index), np.array(volumes, np.float32), np.array(spacings, np.float32),
                 np.array(slices), frozenset(ancestors))


def open_pair(training: str, validation: str | None, data_dir: Path, need_volumes: bool = True
              ) -> tuple[Split, Split]:
    """The splits to learn from and to watch: by default `validation` of the first dataset.

    Raises DataError where a patient is in both.
    """
    validation = validation or training.partition(":")[0] + ":validation"
    pair = tuple(open_split(s, data_dir, need_volumes) for s in (training, validation))
    if shared := pair[0].ancestors & pair[1].ancestors:
        raise DataError(f"{len(shared)} patients are in both {training} and {validation}: "
                        f"{', '.join(sorted(shared)[:3])}")
    return pair


def _open_one(spec: str, data_dir: Path) -> Sequence[dict]:
    import data_builders  # noqa: F401  registers the datasets; late, for it imports this package

    name, colon, split = spec.partition(":")
    if not colon:
        raise DataError(f"'{spec}' is not NAME:SPLIT, for example acdc:train")
    written = sorted((Path(data_dir) / name).glob("[0-9]*.*/dataset_info.json"))
    try:              # a folder that is there opens by itself: a cohort may have any name
        builder = (tfds.builder_from_directory(written[-1].parent) if written else
                   tfds.builder(name, data_dir=data_dir))
    except (tfds.core.DatasetNotFoundError, ValueError, FileNotFoundError) as error:
        raise DataError(f"no dataset '{name}' ({str(error).splitlines()[0]})") from None
    if not builder.info.splits:
        raise DataError(f"dataset '{name}' is not built in {data_dir}; run: "
                        f"cardiojax build {name.split('/')[0]} --data-dir {data_dir}")
    try:
        return builder.as_data_source(split=split)
    except (ValueError, KeyError):
        raise DataError(f"dataset '{name}' has no split '{split}'; it has "
                        f"{', '.join(sorted(builder.info.splits))}") from None


def sample(record: dict, size_px: int, slices: int) -> dict[str, np.ndarray]:
    """One record → padded arrays of one study (the fields of `Batch`, without the batch axis)."""
    study = records.decode(record)
    n = len(study)
    area = np.full((slices, 2), np.nan, np.float32)
    if study.masks is not None:
        area[:n] = units.lv_area_mm2(study.masks, study.pixel_spacing_mm)
    frames = np.zeros((slices, size_px, size_px, 2), np.uint8)
    frames[:n] = study.frames if size_px == SIZE_PX else halve(study.frames)
    volumes = np.full(2, np.nan) if study.volumes_ml is None else study.volumes_ml
    return {"frames": frames, "n_slices": np.int32(n), "slice_spacing_mm": np.float32(study.slice_spacing_mm),
            "volumes_ml": volumes.astype(np.float32), "area_mm2": area, "real": np.bool_(True)}


def halve(frames: np.ndarray) -> np.ndarray:
    """(S, 2H, 2W, 2) uint8 → (S, H, W, 2) by the mean of 2 × 2 pixels."""
    rows = frames[:, 0::2].astype(np.uint16) + frames[:, 1::2]
    return ((rows[:, :, 0::2] + rows[:, :, 1::2] + 2) // 4).astype(np.uint8)


def collate(samples: Sequence[dict[str, np.ndarray]], n_slices: np.ndarray | None = None, groups: int = 1,
            rounding: int = 1) -> Batch:
    """`n_slices`: of the whole batch that these samples are a part of, where they are not all of it."""
    arrays = {k: np.stack([s[k] for s in samples]) for k in samples[0]}
    n_slices = arrays["n_slices"] if n_slices is None else n_slices
    budget = slice_budget(n_slices, groups, arrays["area_mm2"].shape[1], rounding)
    return Batch(**arrays, budget=budget, groups=groups)


def slice_budget(n_slices: np.ndarray, groups: int, padded: int, rounding: int = 1) -> int:
    """The most real slices of a group, rounded up to a multiple of its studies (times `rounding`): half a slice a
    study is wasted, some 5 %, and there are few numbers to compile for."""
    studies = len(n_slices) // groups
    most, step = int(n_slices.reshape(groups, studies).sum(axis=1).max()), max(studies * rounding, 2)
    return min(-(-most // step) * step, studies * padded)


def max_slices(*splits: Split) -> int:
    """Slices to pad to: the longest stack, rounded up to a multiple of 4."""
    return -(-max(int(s.n_slices.max()) for s in splits) // 4) * 4


def training_batches(split: Split, *, size_px: int, batch: int, slices: int, seed: int,
                     process: int = 0, processes: int = 1, devices: int = 1, rounding: int = 1
                     ) -> grain.DatasetIterator:
    """Endless shuffled batches of this process's share. `get_state`/`set_state` resume it anywhere in an epoch."""
    to_sample = functools.partial(sample, size_px=size_px, slices=slices)

    def together(samples, indices):
        return collate(samples, split.n_slices[indices], devices, rounding)

    return endless(_Indexed(split), to_sample, together, split.name, "studies", batch=batch, seed=seed, process=process,
                   processes=processes)


def endless(source: Sequence, to_sample: Callable, batch_fn: Callable, name: str, things: str, *, batch: int,
            seed: int, process: int, processes: int) -> grain.DatasetIterator:
    """Endless shuffled batches of a random-access source, of each the part of one process.

    The batches and their order do not depend on how many processes share them, nor does the iterator's state.
    `batch_fn` gets the samples and the indices of the whole batch.
    """
    if batch > len(source):
        raise DataError(f"a batch of {batch} {things} is more than {name} holds ({len(source)})")
    mine = slice(process * batch // processes, (process + 1) * batch // processes)
    dataset = (grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
               .batch(batch, drop_remainder=True)
               .map(lambda indices: batch_fn([to_sample(source[int(i)]) for i in indices[mine]], indices)))
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def evaluation_batches(split: Split, *, size_px: int, batch: int, slices: int) -> Iterator[Batch]:
    """Every study once, in order; the last batch is filled up with copies whose `real` is False."""
    for start in range(0, len(split), batch):
        at = list(range(start, min(start + batch, len(split))))
        samples = [sample(split.source[int(split.index[i])], size_px, slices) for i in at]
        filler = {**samples[-1], "real": np.bool_(False)}
        yield collate(samples + [filler] * (batch - len(at)))


class _Indexed:
    """The usable records of a split, as grain reads them."""

    def __init__(self, split: Split):
        self.source, self.index = split.source, split.index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict:
        return self.source[int(self.index[i])]
