"""Single ED and ES frames with their masks, out of the records of studies: what a GauGAN and contours learn from."""

import collections
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import grain.python as grain
import numpy as np
from jaxtyping import Float, Integer, UInt8

from cardiojax.data import records
from cardiojax.data.batches import PLAINLY, Reading, endless, prefetched
from cardiojax.data.split import Split
from cardiojax.errors import DataError
from cardiojax.preparation import SIZE_PX
from cardiojax.preparation.batch import halve, halve_mask
from cardiojax.units import LABELS

PREVIEWS = 8               # held-out frames that an evaluation shows
BOTH = -1                  # phases


class FrameBatch(NamedTuple):
    """images: (B, H, W) uint8, 0–255 for [0, 1]; masks: (B, H, W) uint8 labels; of pairs (B, H, W, 2), ED and ES."""

    images: np.ndarray
    masks: np.ndarray


class Frames:
    """Every frame with a mask of a split, by index (study, slice, phase), or every slice with its pair of them.

    labels: those that its masks hold. known (N, 4): for each study, the labels that any mask of its dataset holds: a
    dataset that never shows the RV does not know it. centre_px (N, 2): the heart's, for each study with masks.
    """

    def __init__(self, split: Split, phases: int = 1):
        """phases: 2 for pairs. Raises DataError where no study has masks, naming the split."""
        self.split, at, shown = split, [], collections.defaultdict(lambda: {0})
        sources, self.centre_px = [], np.zeros((len(split), 2), np.float32)
        for i in range(len(split)):
            study = split[i]
            sources.append(study.source)
            if study.masks is not None:
                at += [(i, s, t) for s in range(len(study)) for t in ((0, 1) if phases == 1 else (BOTH,))]
                shown[study.source] |= set(np.unique(study.masks).tolist())
                self.centre_px[i] = heart_centre_px(study.masks)
        if not at:
            raise DataError(f"{split.name} has no masks; a network of frames learns from images with masks")
        self.at = np.array(at)
        self.labels = tuple(sorted(set().union(*shown.values())))
        self.known = np.array([[label in shown[source] for label in range(len(LABELS))] for source in sources])

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, i: int) -> tuple[dict, int, int]:
        study, s, t = self.at[i]
        return self.split.source[int(self.split.index[study])], int(s), int(t)

    def batch(self, which: Iterable[int] | Integer[np.ndarray, " b"], size_px: int) -> FrameBatch:
        return stacked([frame_arrays(self[int(i)], size_px) for i in which])

    def examples(self, count: int, size_px: int) -> FrameBatch:
        """Some frames spread over the split, each with every label of the split or nearly so."""
        scores = []
        for i in np.unique(self.at[:, 0]):
            masks = self.split[int(i)].masks
            assert masks is not None                     # `at` holds frames with masks only
            scores += [len(np.unique(masks[s, :, :, phases_of(t)])) for _, s, t in self.at[self.at[:, 0] == i].tolist()]
        full = np.flatnonzero(np.array(scores) == max(scores))
        return self.batch([int(full[i]) for i in np.linspace(0, len(full) - 1, min(count, len(full))).round()
                           .astype(int)], size_px)


def frame_arrays(item: tuple[dict, int, int], size_px: int) -> FrameBatch:
    """One frame or pair, without the batch axis."""
    record, s, t = item
    study = records.decode(record)
    assert study.masks is not None
    image, mask = study.frames[s:s + 1, :, :, phases_of(t)], study.masks[s, :, :, phases_of(t)]
    if size_px != SIZE_PX:
        image, mask = halve(image), np.moveaxis(halve_mask(np.moveaxis(mask, -1, 0)), 0, -1)
    return FrameBatch(*(a if t == BOTH else a[..., 0] for a in (image[0], mask)))


def phases_of(t: int) -> slice:
    return slice(None) if t == BOTH else slice(t, t + 1)


def stacked(frames: Sequence[FrameBatch]) -> FrameBatch:
    return FrameBatch(*(np.stack(column) for column in zip(*frames, strict=True)))


def training_batches(frames: Frames, *, size_px: int, batch: int, seed: int, process: int = 0, processes: int = 1,
                     reading: Reading = PLAINLY) -> grain.DatasetIterator:
    """Endless shuffled batches of this process's share; resumable as `data.training_batches` is."""
    return prefetched(endless(frames, functools.partial(frame_arrays, size_px=size_px),
                              lambda arrays, _: stacked(arrays), frames.split.name, "frames", batch=batch, seed=seed,
                              process=process, processes=processes, keep_gib=reading.limit_gib), reading)


def heart_centre_px(masks: UInt8[np.ndarray, "s h w 2"]) -> Float[np.ndarray, "2"]:
    """(row, column) of all that is labelled, from the image's centre, over slices and both phases; 0 without any."""
    heart = masks > 0
    rows, columns = heart.sum((0, 2, 3)), heart.sum((0, 1, 3))
    if not rows.sum():
        return np.zeros(2, np.float32)
    return np.array([np.average(np.arange(len(n)) - (len(n) - 1) / 2, weights=n) for n in (rows, columns)], np.float32)
