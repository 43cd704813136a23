"""`Grid`: where the pixels of a study lie in its files and in the patient, for what goes back to them."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage


class SourceImage(NamedTuple):
    """The image that a frame was read from: a file, and of many frames in it which one, from 0."""

    file: Path
    frame: int | None = None


@dataclasses.dataclass(frozen=True)
class Grid:
    """The pixels of a study as it was read.

    affine: (4, 4), (column, row, slice, 1) of the source → mm to the patient's right, front and head, as NIfTI has
        them (RAS+). unit, pixdim: of a NIfTI header, which an affine may contradict.
    shape: (slices, rows, columns) of the source. at: (S,) which of its slices each of the study's is.
    spacing_mm: between its (rows, columns); an affine may lack it, as ACDC's do.
    centre_mm: (row, column) from the middle of its images to that of the prepared ones (`preparation.prepare`).
    off_mm: how far the slice that is farthest from where `affine` says lies from there.
    sources: (S, T) of DICOM, the image of every frame; () of other files.
    """

    affine: Float[np.ndarray, "4 4"]
    shape: tuple[int, int, int]
    at: tuple[int, ...]
    spacing_mm: tuple[float, float]
    centre_mm: tuple[float, float] = (0.0, 0.0)
    unit: str = "mm"
    pixdim: tuple[float, float, float] | None = None
    off_mm: float = 0.0
    sources: tuple[tuple[SourceImage, ...], ...] = ()

    @property
    def lps(self) -> Float[np.ndarray, "4 4"]:
        """`affine` towards the left, back and head, as DICOM has them."""
        return np.diag([-1.0, -1, 1, 1]) @ self.affine

    def phases(self, which: list[int]) -> "Grid":
        """Of a study of some phases of this one, counted from 0."""
        return dataclasses.replace(self, sources=tuple(tuple(row[t] for t in which) for row in self.sources))

    def labels_as_read(self, labels: UInt8[np.ndarray, "s h w *t"]) -> UInt8[np.ndarray, "s rows columns *t"]:
        """Labels of the prepared study's slices on the pixels that were read; background where nothing was looked at.

        Between the pixels of 1 mm the label with the largest share is taken.
        """
        size = labels.shape[1]
        _, height, width = self.shape
        at = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * spacing - centre + (size - 1) / 2
                           for n, spacing, centre in zip((height, width), self.spacing_mm, self.centre_mm,
                                                         strict=True)), indexing="ij")
        flat = np.moveaxis(labels.reshape(*labels.shape[:3], -1), 3, 1).reshape(-1, size, size)
        out = np.zeros((len(flat), height, width), np.uint8)
        for plane, restored in zip(flat, out, strict=True):
            share = ndimage.map_coordinates((plane == 0) * 1.0, at, order=1, cval=1.0)
            for label in range(1, int(plane.max()) + 1):
                mine = ndimage.map_coordinates((plane == label) * 1.0, at, order=1)
                restored[mine > share] = label
                share = np.maximum(share, mine)
        return np.moveaxis(out.reshape(len(labels), -1, height, width), 1, -1).reshape(
            len(labels), height, width, *labels.shape[3:])
