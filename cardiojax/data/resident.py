"""All studies of a split as arrays, to lie in a device's memory, and batches that only say which of them they are."""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import grain.python as grain
import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from cardiojax.data import records
from cardiojax.data.batches import Reading, Records, drawn, prefetched, share_of_batch
from cardiojax.data.split import Split
from cardiojax.preparation.batch import Batch, Leaf, collate, slice_budget, study_arrays


@functools.partial(jax.tree_util.register_dataclass, data_fields=["indices"], meta_fields=["slice_budget"])
@dataclasses.dataclass(frozen=True)
class Picked:
    """A batch of studies that lie on the devices. indices: (B,) int32, of the split; slice_budget: as a `Batch` has."""

    indices: Leaf
    slice_budget: int


def all_studies(split: Split, *, size_px: int, slices: int, reading: Reading) -> Batch:
    """Every usable study of a split as one batch, in order."""
    source = Records(split)

    def arrays(i: int) -> dict[str, np.ndarray]:
        return study_arrays(records.decode(source[i]), size_px, slices)

    with ThreadPoolExecutor(reading.threads) as pool:
        read = track(pool.map(arrays, range(len(source))), "reading studies", len(source), transient=True,
                     console=Console(stderr=True))
        return collate(list(read))


def gib_of(split: Split, *, size_px: int, slices: int) -> float:
    """What `all_studies` takes, nearly all of it the frames."""
    return len(split) * slices * size_px**2 * 2 / 2**30


def picked_batches(split: Split, *, batch: int, slices: int, seed: int, process: int = 0, processes: int = 1,
                   devices: int = 1, reading: Reading) -> grain.DatasetIterator:
    """The batches of `data.training_batches` with the same arguments, in the same order and with the same states."""
    mine = share_of_batch(batch, process, processes)
    return prefetched(drawn(len(split), split.name, "studies", batch=batch, seed=seed).map(
        lambda indices: Picked(indices[mine].astype(np.int32), slice_budget(split.n_slices[indices], devices, slices))),
        reading)
