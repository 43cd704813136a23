"""What contours learn from: frames with masks, and beside them whole stacks whose volume alone is known."""

from collections.abc import Sequence
from typing import NamedTuple

import grain.python as grain
import numpy as np
from jaxtyping import Int

from cardiojax.data import records
from cardiojax.data.batches import PLAINLY, Reading, Records, endless, prefetched, share_of_batch
from cardiojax.data.frames import Frames
from cardiojax.data.split import Split
from cardiojax.preparation import SIZE_PX

SAID_BY_MASKS = {"rtol": 0.05, "atol": 3.0}      # volumes (ml) this near to those of a study's masks say nothing new


class Stacks(NamedTuple):
    """One phase of whole studies at 1 mm.

    frames: (B, S, 150, 150) uint8, the first n_slices (B,) are real. slice_spacing_mm (B,). volume_ml (B,), of the LV.
    """

    frames: np.ndarray
    n_slices: np.ndarray
    slice_spacing_mm: np.ndarray
    volume_ml: np.ndarray


class LabelledBatch(NamedTuple):
    """Frames at 1 mm with what is known of them.

    images: (B, 150, 150, C) uint8, the frame in the middle of its neighbours, base → apex, black beyond the stack.
    masks: (B, 150, 150) uint8 labels. known: (B, 4) bool, the labels that the frame's dataset knows.
    centre_px: (B, 2) float32, the heart's (row, column) from the image's centre, in all of the study.
    stacks: whose volumes teach too, None where there are none.
    """

    images: np.ndarray
    masks: np.ndarray
    known: np.ndarray
    centre_px: np.ndarray
    stacks: Stacks | None = None


def labelled_batches(frames: Frames, volumes: Int[np.ndarray, " n"], *, neighbours: int, batch: int, stacks: int,
                     seed: int, process: int = 0, processes: int = 1, reading: Reading = PLAINLY
                     ) -> grain.DatasetIterator:
    """Endless shuffled batches of this process's share; resumable as `data.training_batches` is.

    volumes: the studies that stacks are drawn from (`taught_by_volume`); of none of them there are no stacks.
    """
    def arrays(item: tuple[dict, int, int]) -> tuple[np.ndarray, np.ndarray]:
        record, s, t = item
        study = records.decode(record)
        assert study.masks is not None
        wide = np.pad(study.frames[..., t], ((neighbours, neighbours), (0, 0), (0, 0)))
        return np.moveaxis(wide[s:s + 1 + 2 * neighbours], 0, -1), study.masks[s, :, :, t]

    def whole(arrays: Sequence[tuple[np.ndarray, np.ndarray]], indices) -> LabelledBatch:
        mine = frames.at[indices[share_of_batch(batch, process, processes)], 0]
        images, masks = (np.stack(column) for column in zip(*arrays, strict=True))
        return LabelledBatch(images, masks, frames.known[mine], frames.centre_px[mine])

    both = stacks and len(volumes)
    share = {"seed": seed, "process": process, "processes": processes,
             "keep_gib": reading.limit_gib / (2 if both else 1)}
    labelled = endless(frames, arrays, whole, frames.split.name, "frames", batch=batch, **share)
    if not both:
        return prefetched(labelled, reading)
    slices = int(frames.split.n_slices[volumes].max())
    beside = endless(_Phases(frames.split, volumes), lambda item: _stack(*item, slices),
                     lambda arrays, _: Stacks(*(np.stack(column) for column in zip(*arrays, strict=True))),
                     frames.split.name, "stacks", batch=stacks, **share)
    steps = min(len(labelled), len(beside))              # both as good as endless
    return prefetched(grain.experimental.ZipMapDataset([labelled[:steps], beside[:steps]]).map(
        lambda pair: pair[0]._replace(stacks=pair[1])), reading)


def taught_by_volume(split: Split) -> Int[np.ndarray, " n"]:
    """The studies whose volumes say what their masks do not: without masks, or of another source than they."""
    def new(i: int) -> bool:
        if not np.isfinite(split.volumes_ml[i]).all():
            return False
        study = split[i]
        return study.masks is None or not np.allclose(study.volumes_from_masks_ml(), split.volumes_ml[i],
                                                      **SAID_BY_MASKS)

    return np.array([i for i in range(len(split)) if new(i)], int)


class _Phases:
    """ED and ES of some studies of a split, each by itself."""

    def __init__(self, split: Split, indices: Int[np.ndarray, " n"]):
        self.records = Records(split, indices)

    def __len__(self) -> int:
        return 2 * len(self.records)

    def __getitem__(self, i: int) -> tuple[dict, int]:
        return self.records[i // 2], i % 2


def _stack(record: dict, t: int, slices: int) -> Stacks:
    """Without the batch axis, padded to so many slices."""
    study = records.decode(record)
    assert study.volumes_ml is not None
    frames = np.zeros((slices, SIZE_PX, SIZE_PX), np.uint8)
    frames[:len(study)] = study.frames[..., t]
    return Stacks(frames, np.int32(len(study)), np.float32(study.slice_spacing_mm), np.float32(study.volumes_ml[t]))
