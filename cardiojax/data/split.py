"""Records on disk → a `Split`: studies by index, of one dataset or several."""

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from cardiojax.data import builders, records
from cardiojax.errors import DataError, one_line
from cardiojax.study import Study

log = logging.getLogger("cardiojax")


@runtime_checkable
class Source(Protocol):
    """Things by their number, mostly records: a list, a TFDS data source, several of them."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Any: ...


@Sequence.register                    # pyright: ignore[reportAttributeAccessIssue]  typeshed lacks it
@dataclasses.dataclass(frozen=True)
class Split:
    """Studies of one or more `NAME:SPLIT`: a sequence of `Study`, and what a first pass over them found."""

    name: str
    source: Source
    index: np.ndarray                 # the usable records
    volumes_ml: np.ndarray            # (N, 2)
    slice_spacing_mm: np.ndarray      # (N,)
    n_slices: np.ndarray              # (N,)
    ancestors: frozenset[str]         # real patients behind the records, `source/patient`

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Study:
        return records.decode(self.source[int(self.index[i])])

    def subset(self, indices: Int[np.ndarray, " k"], name: str) -> "Split":
        """Some of its studies, in this order, as a split of that name."""
        real = {(study.source, study.ancestor or study.study_id) for study in (self[int(i)] for i in indices)}
        return Split(name, self.source, self.index[indices], self.volumes_ml[indices], self.slice_spacing_mm[indices],
                     self.n_slices[indices], frozenset(builders.patients(real).values()))

    def without_masks(self) -> "Split":
        """The same studies as if nobody had contoured them: what is left are the volumes."""
        return dataclasses.replace(self, source=_WithoutMasks(self.source))


class _WithoutMasks:
    """Records whose masks are left out."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict:
        record = self.source[i]
        return {**record, "masks": record["masks"][:0]}


class _Records:
    """A dataset's records; one that cannot be read is named."""

    def __init__(self, source: Source, spec: str, name: str):
        self.source, self.spec, self.name = source, spec, name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict:
        try:
            return self.source[i]
        except Exception as error:               # of Riegeli, protobuf, Pillow or a disk
            raise damaged(f"record {i} of {self.spec}", self.name, error) from None


def damaged(what: str, name: str, error: Exception) -> DataError:
    return DataError(f"{what} cannot be read ({one_line(error)}): files are damaged or missing. To write them anew: "
                     f"cardiojax build {name.split('/')[0]} --overwrite")


class _Joined:
    """Several data sources as one random-access source."""

    def __init__(self, sources: list[Source]):
        self.sources, self.ends = sources, np.cumsum([len(s) for s in sources])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, i: int) -> dict:
        which = int(np.searchsorted(self.ends, i, side="right"))
        return self.sources[which][i - (int(self.ends[which - 1]) if which else 0)]


def open_split(spec: str, data_dir: Path, need_volumes: bool = True) -> Split:
    """`NAME[/CONFIG]:SPLIT[,NAME:SPLIT…]` under `data_dir`. Studies without volumes are left out by name.

    Raises DataError where a dataset is not built or a split does not exist or is empty.
    """
    return usable(spec, _Joined([_open_one(s.strip(), data_dir) for s in spec.split(",")]), need_volumes)


def usable(name: str, source: Source, need_volumes: bool = True) -> Split:
    """A split of these records, but for those without volumes."""
    index, volumes, spacings, slices, real = [], [], [], [], set()
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
        real.add((study.source, study.ancestor or study.study_id))
    if not index:
        raise DataError(f"{name} holds no usable study")
    return Split(name, source, np.array(index), np.array(volumes, np.float32), np.array(spacings, np.float32),
                 np.array(slices), frozenset(builders.patients(real).values()))


def default_validation(training: str) -> str:
    """`validation` of every dataset of a training split, each once: "a:train[:50%],b/c:train" →
    "a:validation,b/c:validation"."""
    names = dict.fromkeys(spec.partition(":")[0].strip() for spec in training.split(","))
    return ",".join(f"{name}:validation" for name in names)


def open_pair(training: str | Split, validation: str | Split | None, data_dir: Path, need_volumes: bool = True
              ) -> tuple[Split, Split]:
    """The splits to train and to validate on, by their names or at hand already.

    Raises DataError where a patient is in both.
    """
    if validation is None:
        validation = default_validation(training if isinstance(training, str) else training.name)
    first, second = (s if isinstance(s, Split) else open_split(s, data_dir, need_volumes)
                     for s in (training, validation))
    if shared := first.ancestors & second.ancestors:
        raise DataError(f"{len(shared)} patients are in both {first.name} and {second.name}: "
                        f"{', '.join(sorted(shared)[:3])}")
    return first, second


def joined(*splits: Split) -> Split:
    """The studies of several splits as one. Of the same patient in two it does not ask."""
    starts = np.cumsum([0, *(len(s.source) for s in splits)])
    arrays = (np.concatenate([getattr(s, field) for s in splits])
              for field in ("volumes_ml", "slice_spacing_mm", "n_slices"))
    return Split(",".join(s.name for s in splits), _Joined([s.source for s in splits]),
                 np.concatenate([s.index + start for s, start in zip(splits, starts, strict=False)]), *arrays,
                 frozenset().union(*(s.ancestors for s in splits)))


def _open_one(spec: str, data_dir: Path) -> Source:
    name, colon, split = spec.partition(":")
    if not colon:
        raise DataError(f"'{spec}' is not NAME:SPLIT, for example acdc:train")
    written = sorted((Path(data_dir) / name).glob("[0-9]*.*/dataset_info.json"),
                     key=lambda file: [int(part) for part in re.findall(r"\d+", file.parent.name)])
    if not written:
        builders.builder_class(name.split("/")[0])               # registers it
    try:              # a folder that is there opens by itself: a cohort may have any name
        builder = (tfds.builder_from_directory(written[-1].parent) if written else
                   tfds.builder(name, data_dir=data_dir))
    except tfds.core.DatasetNotFoundError:
        raise DataError(f"no dataset '{name}'; there are {', '.join(sorted(builders.entry_points()))}") from None
    except (ValueError, FileNotFoundError) as error:
        raise DataError(f"no dataset '{name}' ({str(error).splitlines()[0]})") from None
    except Exception as error:                     # of protobuf
        raise damaged(f"the dataset_info.json of {name}", name, error) from None
    if not builder.info.splits:
        raise DataError(f"dataset '{name}' is not built in {data_dir}; run: "
                        f"cardiojax build {name.split('/')[0]} --data-dir {data_dir}")
    if re.split(r"\W", split)[0] not in {*builder.info.splits, "all"}:
        raise DataError(f"dataset '{name}' has no split '{split}'; it has {', '.join(sorted(builder.info.splits))}")
    try:
        return _Records(builder.as_data_source(split=split), spec, name)
    except Exception as error:
        raise damaged(spec, name, error) from None
