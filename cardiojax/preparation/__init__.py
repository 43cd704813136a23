"""A study as read → a study as the networks see it: 150 × 150 at 1 mm, 8 bit (paper, Methods, "Data")."""

import dataclasses
from typing import Any, TypeVar

import numpy as np
from scipy import ndimage

from cardiojax.errors import StudyError
from cardiojax.study import Cine, Study
from cardiojax.units import LV

SIZE_PX = 150
QUANTILES = (0.03, 0.97)
CENTRES = ("image", "motion")

Prepared = TypeVar("Prepared", Study, Cine)


def is_prepared(study: Study) -> bool:
    """Whether a study is as `prepare` leaves it: 8 bit, 150 × 150 pixels at 1 mm."""
    return (study.frames.dtype == np.uint8 and study.frames.shape[1:3] == (SIZE_PX, SIZE_PX)
            and np.allclose(study.pixel_spacing_mm, 1.0, atol=1e-4))


def prepare(study: Prepared, centre: str = "motion") -> Prepared:
    """Resample to 1 × 1 mm, crop or pad to 150 × 150 round `centre`, clip to the study's [3, 97] % quantiles.

    Returns frames uint8 (0–255 for [0, 1]) and masks uint8 at 1 mm. `volumes_ml` passes through: volumes are
    measured before any crop. `centre` is "image" (the paper) or "motion" (`motion_centre_mm`).
    Raises StudyError where all pixels are alike, ValueError for another centre.
    """
    if centre not in CENTRES:
        raise ValueError(f"centre is {' or '.join(CENTRES)}, not {centre!r}")
    spacing_mm = study.pixel_spacing_mm
    offset_mm = motion_centre_mm(study.frames, spacing_mm) if centre == "motion" else np.zeros(2)
    frames, inside = resample(study.frames, spacing_mm, offset_mm, order=1)
    low, high = np.quantile(frames[:, inside], QUANTILES)
    if not high > low:
        raise StudyError(f"study {study.study_id}: all pixels have about the same value ({low:g})")
    scaled = np.clip((frames - low) / (high - low), 0.0, 1.0) * inside[None, :, :, None]
    changes: dict[str, Any] = {"frames": np.round(scaled * 255).astype(np.uint8), "pixel_spacing_mm": (1.0, 1.0)}
    if study.grid is not None:
        changes["grid"] = dataclasses.replace(study.grid, centre_mm=(float(offset_mm[0]), float(offset_mm[1])))
    if isinstance(study, Study) and study.masks is not None:
        changes["masks"] = resample(study.masks, spacing_mm, offset_mm, order=0)[0].astype(np.uint8)
    return dataclasses.replace(study, **changes)


def resample(stack: np.ndarray, spacing_mm: tuple[float, float], offset_mm: np.ndarray, order: int
             ) -> tuple[np.ndarray, np.ndarray]:
    """(S, H, W, T) at `spacing_mm` → (S, 150, 150, T) at 1 mm round the image centre + `offset_mm` (row, col).

    Also returns which of the 150 × 150 pixels lie inside the image. Images finer than 1 mm are smoothed first.
    """
    height, width, phases = stack.shape[1:]
    grid_mm = np.arange(SIZE_PX) - (SIZE_PX - 1) / 2
    rows = (height - 1) / 2 + (grid_mm + offset_mm[0]) / spacing_mm[0]
    cols = (width - 1) / 2 + (grid_mm + offset_mm[1]) / spacing_mm[1]
    inside = ((rows >= -0.5) & (rows <= height - 0.5))[:, None] & ((cols >= -0.5) & (cols <= width - 0.5))
    sigma = [max(0.0, (1 / s - 1) / 2) for s in spacing_mm] if order else [0.0, 0.0]
    at = np.meshgrid(rows, cols, indexing="ij")
    out = np.empty((len(stack), SIZE_PX, SIZE_PX, phases), np.float32)
    for s in range(len(stack)):
        for phase in range(phases):
            plane = np.asarray(stack[s, :, :, phase], np.float32)
            if any(sigma):
                plane = ndimage.gaussian_filter(plane, sigma)
            out[s, :, :, phase] = ndimage.map_coordinates(plane, at, order=order, mode="nearest")
    return out * inside[None, :, :, None], inside


def motion_centre_mm(frames: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Where the heart beats: (row, col) offset in mm from the centre of (S, H, W, T) frames, found without masks.

    The centroid of the largest change from the first phase, |ED − ES| of two, summed over the slices, smoothed
    (σ = 10 mm) and weighted towards the image centre, above 60 % of its peak.
    """
    frames = np.asarray(frames, np.float32)
    change = np.abs(frames[..., 1:] - frames[..., :1]).max(axis=-1)
    change = np.minimum(change, np.quantile(change, 0.99)).sum(axis=0)
    sigma = [10.0 / s for s in spacing_mm]
    smooth = ndimage.gaussian_filter(change, sigma, mode="constant")
    rows = (np.arange(change.shape[0]) - (change.shape[0] - 1) / 2) * spacing_mm[0]
    cols = (np.arange(change.shape[1]) - (change.shape[1] - 1) / 2) * spacing_mm[1]
    smooth = smooth * np.exp(-(rows[:, None] ** 2 + cols[None, :] ** 2) / (2 * 60.0 ** 2))
    weight = np.clip(smooth - 0.6 * smooth.max(), 0, None)
    if weight.sum() <= 0:
        return np.zeros(2)
    return np.array([(weight.sum(1) * rows).sum(), (weight.sum(0) * cols).sum()]) / weight.sum()


def trim(study: Study) -> Study:
    """Keep the slices between base and apex: from the first to the last with LV on it at ED or ES.

    Without masks the study is returned as it is.
    """
    if study.masks is None:
        return study
    has_lv = np.flatnonzero((study.masks == LV).any(axis=(1, 2, 3)))
    if not len(has_lv):
        raise StudyError(f"study {study.study_id}: no LV in the masks, so no base and apex to trim to")
    keep = slice(has_lv[0], has_lv[-1] + 1)
    positions = None if study.positions_mm is None else study.positions_mm[keep]
    grid = study.grid and dataclasses.replace(study.grid, at=study.grid.at[keep], sources=study.grid.sources[keep])
    return study.replace(frames=study.frames[keep], masks=study.masks[keep], positions_mm=positions, grid=grid)
