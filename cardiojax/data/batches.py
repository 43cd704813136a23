"""A split → padded batches by grain: shuffled and endless to train on, each study once to evaluate on."""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import grain.python as grain
import numpy as np
from jaxtyping import Int

from cardiojax.data import records
from cardiojax.data.kept import Kept, default_limit_gib
from cardiojax.data.split import Source, Split
from cardiojax.errors import DataError
from cardiojax.machine import usable_cores
from cardiojax.preparation.batch import Batch, batch_of, collate, padded_slices, study_arrays

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = 16                   # more threads than that wait for each other more than they read


class Reading(NamedTuple):
    """How records are read. workers: threads that read ahead; 0: one a core, WORKERS at most. keep_gib: of their
    arrays, kept in memory between epochs; None: a share of it (`kept.default_limit_gib`)."""

    workers: int = 0
    keep_gib: float | None = 0.0

    @property
    def limit_gib(self) -> float:
        return default_limit_gib() if self.keep_gib is None else self.keep_gib

    @property
    def threads(self) -> int:
        return self.workers or min(WORKERS, usable_cores())


PLAINLY = Reading()


def max_slices(*splits: Split) -> int:
    """Slices to pad to, of all of these splits (`preparation.batch.padded_slices`)."""
    return padded_slices(int(s.n_slices.max()) for s in splits)


def training_batches(split: Split, *, size_px: int, batch: int, slices: int, seed: int,
                     process: int = 0, processes: int = 1, devices: int = 1, reading: Reading = PLAINLY
                     ) -> grain.DatasetIterator:
    """Endless shuffled batches of this process's share. `get_state`/`set_state` resume it anywhere in an epoch."""
    def arrays(record: dict) -> dict[str, np.ndarray]:
        return study_arrays(records.decode(record), size_px, slices)

    def batch_of_all(arrays, indices):
        return collate(arrays, split.n_slices[indices], devices)

    return prefetched(endless(Records(split), arrays, batch_of_all, split.name, "studies", batch=batch, seed=seed,
                              process=process, processes=processes, keep_gib=reading.limit_gib), reading)


def endless(source: Source, arrays_of: Callable, batch_of_all: Callable, name: str, things: str, *, batch: int,
            seed: int, process: int, processes: int, keep_gib: float) -> grain.MapDataset:
    """Endless shuffled batches of a random-access source, of each the part of one process. Of the arrays so many GiB
    are kept in memory.

    The batches and their order do not depend on how many processes share them, nor does the iterator's state.
    `batch_of_all` gets the arrays and the indices of the whole batch.
    """
    mine = share_of_batch(batch, process, processes)
    arrays_at = Kept(lambda i: arrays_of(source[i]), keep_gib)
    return drawn(len(source), name, things, batch=batch, seed=seed).map(
        lambda indices: batch_of_all([arrays_at(int(i)) for i in indices[mine]], indices))


def share_of_batch(batch: int, process: int, processes: int) -> slice:
    """The part of a batch that one process brings."""
    return slice(process * batch // processes, (process + 1) * batch // processes)


def drawn(count: int, name: str, things: str, *, batch: int, seed: int) -> grain.MapDataset:
    """Which of `count` things make each batch, epoch after epoch. Raises DataError where they do not make one."""
    if batch > count:
        raise DataError(f"a batch of {batch} {things} is more than {name} holds ({count})")
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat().batch(batch, drop_remainder=True)


def prefetched(batches: grain.MapDataset, reading: Reading) -> grain.DatasetIterator:
    """The batches in order, read ahead."""
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=reading.threads,
                                                          prefetch_buffer_size=2 * reading.threads)))


def evaluation_batches(split: Split, *, size_px: int, batch: int, slices: int,
                       indices: Int[np.ndarray, " n"] | None = None, reading: Reading = PLAINLY) -> Iterator[Batch]:
    """Every study (or those of `indices`) once, in order; the last batch is filled up with copies whose `real` is
    False."""
    indices = np.arange(len(split)) if indices is None else indices
    with concurrent.futures.ThreadPoolExecutor(reading.threads) as pool:
        def read(start: int) -> Batch:
            studies = list(pool.map(lambda i: split[int(i)], indices[start:start + batch]))
            return batch_of(studies, size_px, fill_to=batch, slices=slices)

        yield from one_ahead(read, range(0, len(indices), batch))


def one_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`read(item)` of each, in order, in a thread that is one item ahead."""
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        ready = None
        for item in items:
            following = reader.submit(read, item)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()


def sample_of(split: Split, count: int) -> Int[np.ndarray, " n"]:
    """Indices of a split in order: of a large one a random sample, the same every time, for records may be sorted by
    dataset or patient."""
    return np.sort(np.random.default_rng(0).choice(len(split), min(count, len(split)), replace=False))


class Records:
    """The usable records of a split (or those of `indices`), as grain reads them."""

    def __init__(self, split: Split, indices: Int[np.ndarray, " n"] | None = None):
        self.source, self.index = split.source, split.index if indices is None else split.index[indices]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict:
        return self.source[int(self.index[i])]
