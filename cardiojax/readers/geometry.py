"""Where slices lie: positions along the normal, base → apex order, masks onto slices by physical position."""

import dataclasses
import logging

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from cardiojax.grid import Grid
from cardiojax.study import GAP

log = logging.getLogger("cardiojax")

# Short-axis slices run from base to apex towards the patient's left, front and feet (LPS axes).
TOWARDS_APEX = np.array([1.0, -1.0, -1.0]) / np.sqrt(3)
DECISIVE = 0.7          # cosine: within 45° of that direction, the orientation decides the order
MASK_TOLERANCE_MM = 3.0
JITTER_MM = 0.5         # positions that follow each other this closely are one slice's


@dataclasses.dataclass(frozen=True)
class Plane:
    """The grid of one slice in patient space (LPS, mm), as DICOM gives it.

    `origin` is the centre of the first pixel, `along_row` the direction in which the column index grows,
    `along_col` that of the row index, `spacing_mm` is (row, column), `shape` (rows, columns).
    """

    origin: np.ndarray
    along_row: np.ndarray
    along_col: np.ndarray
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.along_col)

    def same_grid(self, other: "Plane") -> bool:
        """Same shape, spacing and in-plane axes; the position does not matter."""
        return (self.shape == other.shape and np.allclose(self.spacing_mm, other.spacing_mm, rtol=1e-3)
                and float(self.along_row @ other.along_row) > 0.99
                and float(self.along_col @ other.along_col) > 0.99)

    def pixels_mm(self) -> np.ndarray:
        """Patient coordinates (LPS) of every pixel centre, (rows, columns, 3)."""
        rows, cols = np.meshgrid(*map(np.arange, self.shape), indexing="ij")
        return (self.origin + rows[..., None] * self.spacing_mm[0] * self.along_col
                + cols[..., None] * self.spacing_mm[1] * self.along_row)

    def indices_of(self, points_mm: np.ndarray) -> np.ndarray:
        """(row, column) indices, first axis, of points projected onto this plane."""
        delta = points_mm - self.origin
        return np.stack([delta @ self.along_col / self.spacing_mm[0], delta @ self.along_row / self.spacing_mm[1]])


def regrid(image: np.ndarray, source: Plane, target: Plane) -> np.ndarray:
    """An image on the grid of another slice of the stack, each projected along the normal (linear)."""
    return ndimage.map_coordinates(image, source.indices_of(target.pixels_mm()), order=1, mode="nearest")


def clusters(positions_mm: np.ndarray) -> list[np.ndarray]:
    """Indices of the positions of each slice: what lies within `JITTER_MM` of its neighbour is of the same one."""
    order = np.argsort(positions_mm, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(positions_mm[order]) > JITTER_MM) + 1)


def towards_apex(normal: np.ndarray, study_id: str, acquisition_order: float) -> int:
    """+1 where base → apex runs along `normal`, −1 where against it.

    `acquisition_order` > 0 says that the slices were acquired (or stored) along the normal; it decides where
    the orientation does not.
    """
    cosine = float(normal @ TOWARDS_APEX) / max(float(np.linalg.norm(normal)), 1e-9)
    if abs(cosine) >= DECISIVE:
        log.info("study %s: base to apex by the slices' orientation", study_id)
        return 1 if cosine > 0 else -1
    log.info("study %s: base to apex by acquisition order (the orientation does not decide)", study_id)
    return 1 if acquisition_order >= 0 else -1


def slice_spacing_mm(positions_mm: np.ndarray, study_id: str, fallback_mm: float | None) -> tuple[float, list[str]]:
    """The usual distance between neighbouring slices, and its gaps in words, which are in the log too.

    One slice alone takes `fallback_mm` (the thickness), NaN where that is unknown too.
    """
    if len(positions_mm) < 2:
        log.warning("study %s: a single slice, so its thickness stands for the slice spacing", study_id)
        return float("nan") if fallback_mm is None else fallback_mm, []
    steps = np.abs(np.diff(positions_mm))
    spacing = float(np.median(steps))
    gaps = [f"gap of {steps[i]:.1f} mm between slices {i + 1} and {i + 2} (usual spacing {spacing:.1f} mm)"
            for i in np.flatnonzero(steps > GAP * spacing)]
    for gap in gaps:
        log.warning("study %s: %s", study_id, gap)
    return spacing, gaps


def volume_of(planes: list[Plane], positions_mm: np.ndarray, spacing_mm: float) -> Grid:
    """Slices as one volume, as it lies best on them: a slice that is missing between two is an empty one."""
    origins = np.array([p.origin for p in planes])
    at = [0]
    for gap in np.abs(np.diff(positions_mm)):
        at.append(at[-1] + max(1, round(float(gap) / spacing_mm)))
    first, step = origins[0], spacing_mm * planes[0].normal
    if len(planes) > 1:
        weights = np.stack([np.ones(len(at)), at], axis=1)
        first, step = np.linalg.lstsq(weights, origins, rcond=None)[0]
    row_mm, column_mm = planes[0].spacing_mm
    lps = np.eye(4)
    lps[:3] = np.stack([planes[0].along_row * column_mm, planes[0].along_col * row_mm, step, first], axis=1)
    off_mm = float(np.linalg.norm(origins - first - np.outer(at, step), axis=1).max())
    return Grid(np.diag([-1.0, -1, 1, 1]) @ lps, (at[-1] + 1, *planes[0].shape), tuple(at), planes[0].spacing_mm,
                off_mm=off_mm)


def masks_onto(planes: list[Plane], mask: nib.Nifti1Image, study_id: str, phase: str) -> np.ndarray:
    """A 3D label image on the grids of DICOM slices: (S, H, W) uint8, matched by position, not by order.

    Planes pair one to one within 3 mm. A slice without a partner is background and is named, and so is a mask
    plane without a slice.
    """
    to_voxel = np.linalg.inv(mask.affine)
    labels = np.asarray(mask.dataobj)
    if labels.ndim != 3:
        raise ValueError(f"mask of shape {labels.shape}, expected three axes")
    if labels.shape[:2] not in (planes[0].shape, planes[0].shape[::-1]):
        log.warning("study %s: %s mask of %d×%d pixels on slices of %d×%d, placed by position", study_id, phase,
                    *labels.shape[:2], *planes[0].shape)
    normal = planes[0].normal
    lps = np.diag([-1.0, -1, 1, 1]) @ mask.affine
    middle = [(labels.shape[0] - 1) / 2, (labels.shape[1] - 1) / 2]
    mask_mm = np.array([(lps @ [*middle, k, 1])[:3] @ normal for k in range(labels.shape[2])])
    slice_mm = np.array([p.pixels_mm()[p.shape[0] // 2, p.shape[1] // 2] @ normal for p in planes])
    distance = np.abs(slice_mm[:, None] - mask_mm[None, :])
    pairs = {int(s): int(k) for s, k in zip(*linear_sum_assignment(np.minimum(distance, 1e3)), strict=True)
             if distance[s, k] <= MASK_TOLERANCE_MM}
    out = np.zeros((len(planes), *planes[0].shape), np.uint8)
    for s, plane in enumerate(planes):
        if s not in pairs:
            log.warning("study %s: %s slice %d at %.1f mm has no mask plane within %g mm, taken as background",
                        study_id, phase, s + 1, slice_mm[s], MASK_TOLERANCE_MM)
            continue
        points = plane.pixels_mm() * [-1, -1, 1]            # LPS → RAS
        voxel = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        voxel[..., 2] = pairs[s]
        # labels are whole numbers: the nearest one, and background outside of the mask's grid
        out[s] = ndimage.map_coordinates(labels, np.moveaxis(voxel, -1, 0), order=0, mode="constant")
    for k in sorted(set(range(labels.shape[2])) - set(pairs.values())):
        log.warning("study %s: %s mask plane %d at %.1f mm has no slice within %g mm, dropped%s", study_id, phase,
                    k + 1, mask_mm[k], MASK_TOLERANCE_MM, "" if labels[:, :, k].any() else " (it is empty)")
    return out
