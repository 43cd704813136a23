"""Prepared studies → one padded batch of arrays, as the networks read them."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from cardiojax import units
from cardiojax.preparation import SIZE_PX
from cardiojax.study import Study

Leaf = Any           # an array here or on a device, or what JAX puts in its place (a shape, a sharding)


@functools.partial(jax.tree_util.register_dataclass,
                   data_fields=["frames", "n_slices", "slice_spacing_mm", "volumes_ml", "area_mm2", "real"],
                   meta_fields=["slice_budget"])
@dataclasses.dataclass(frozen=True)
class Batch:
    """Studies padded to one number of slices.

    frames: (B, S, H, W, 2) uint8; n_slices: (B,) int32, the first so many of S are real.
    slice_spacing_mm: (B,); volumes_ml: (B, 2), NaN where unknown.
    area_mm2: (B, S, 2) LV area at ED and ES, NaN on padding and where there are no masks.
    real: (B,) bool, False for studies that only fill up the last batch.
    slice_budget: static bound on the real slices that one device gets of this batch (`ops.packing`); None: unknown.
    With it a step of SFERA `small` on ACDC takes 0.45 s on two CPU cores, without it, the padding convolved too, 0.89.
    """

    frames: Leaf
    n_slices: Leaf
    slice_spacing_mm: Leaf
    volumes_ml: Leaf
    area_mm2: Leaf
    real: Leaf
    slice_budget: int | None = None


def study_arrays(study: Study, size_px: int, slices: int) -> dict[str, np.ndarray]:
    """One prepared study (150 × 150 at 1 mm) as padded arrays: the fields of `Batch`, without the batch axis.

    size_px: 150, or 75 (halved). slices: to pad to.
    """
    n = len(study)
    area = np.full((slices, 2), np.nan, np.float32)
    if study.masks is not None:
        area[:n] = units.lv_area_mm2(study.masks, study.pixel_spacing_mm)
    frames = np.zeros((slices, size_px, size_px, 2), np.uint8)
    frames[:n] = study.frames if size_px == SIZE_PX else halve(study.frames)
    volumes = np.full(2, np.nan) if study.volumes_ml is None else study.volumes_ml
    return {"frames": frames, "n_slices": np.int32(n), "slice_spacing_mm": np.float32(study.slice_spacing_mm),
            "volumes_ml": volumes.astype(np.float32), "area_mm2": area, "real": np.bool_(True)}


def single_frames(stack: Shaped[np.ndarray, "s h w *two"]) -> Shaped[np.ndarray, "n h w"]:
    """(S, H, W, 2) → (2S, H, W), each slice's ED before its ES; single frames as they are."""
    return stack if stack.ndim == 3 else np.moveaxis(stack, -1, 1).reshape(-1, *stack.shape[1:3])


def halve(frames: np.ndarray) -> np.ndarray:
    """(S, 2H, 2W, 2) uint8 → (S, H, W, 2) by the mean of 2 × 2 pixels."""
    rows = frames[:, 0::2].astype(np.uint16) + frames[:, 1::2]
    return ((rows[:, :, 0::2] + rows[:, :, 1::2] + 2) // 4).astype(np.uint8)


def halve_mask(masks: UInt8[np.ndarray, "*n h w"]) -> UInt8[np.ndarray, "*n h2 w2"]:
    """The most frequent label of each 2 × 2 pixels; of equals, that of the pixel at the top left or next to it."""
    corners = [masks[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]
    votes = np.stack([8 * sum((c == other).astype(np.int8) for other in corners) - i
                      for i, c in enumerate(corners)])
    return np.take_along_axis(np.stack(corners), votes.argmax(axis=0)[None], axis=0)[0]


def double(images: Float[np.ndarray, "n h w *c"]) -> Float[np.ndarray, "n h2 w2 *c"]:
    """Twice the pixels, linear within each old one, so that the mean of its four is what it was (but for ± 1)."""
    def along(x, axis):
        edge = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
        wide = np.pad(x, edge, mode="edge")
        slope = (np.delete(wide, (0, 1), axis) - np.delete(wide, (-1, -2), axis)) / 8
        return np.stack([x - slope, x + slope], axis=axis + 1).reshape(
            *x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1:])

    return np.clip(along(along(images, 1), 2), -1.0, 1.0)


def batch_of(studies: Sequence[Study], size_px: int, *, fill_to: int = 0, slices: int = 0) -> Batch:
    """A batch of prepared studies, filled up to `fill_to` with copies of the last that are not `real`.

    slices: to pad to; by default the longest stack, rounded up to a multiple of 4.
    """
    slices = slices or padded_slices(len(s) for s in studies)
    arrays = [study_arrays(s, size_px, slices) for s in studies]
    filler = {**arrays[-1], "real": np.bool_(False)}
    return collate(arrays + [filler] * (fill_to - len(arrays)))


def padded_slices(n_slices: Iterable[int]) -> int:
    """Slices to pad stacks to: the most, rounded up to a multiple of 4, so that there are few shapes to compile for."""
    return -(-max(n_slices) // 4) * 4


def collate(studies: Sequence[dict[str, np.ndarray]], n_slices: np.ndarray | None = None, devices: int = 1) -> Batch:
    """Stack `study_arrays`. `n_slices`: of the whole batch that these studies are a part of, where they are not all of
    it; `devices`: that share the whole batch."""
    arrays = {k: np.stack([s[k] for s in studies]) for k in studies[0]}
    n_slices = arrays["n_slices"] if n_slices is None else n_slices
    return Batch(**arrays, slice_budget=slice_budget(n_slices, devices, arrays["area_mm2"].shape[1]))


def slice_budget(n_slices: np.ndarray, devices: int, padded: int) -> int:
    """The most real slices that one of `devices` gets, rounded up to a multiple of its studies (of eight, where it has
    fewer, which wastes more): half a slice a study is wasted, some 5 %, and there are few numbers to compile for."""
    studies = len(n_slices) // devices
    most, step = int(n_slices.reshape(devices, studies).sum(axis=1).max()), max(studies, 8)
    return min(-(-most // step) * step, studies * padded)
