"""Masks that were seen → NIfTI label images on the pixels of the files that were read."""

import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import UInt8

from cardiojax.files import write_bytes
from cardiojax.grid import Grid
from cardiojax.models.masks import cleaned
from cardiojax.models.prediction import Prediction
from cardiojax.study import ED, ES
from cardiojax.units import LABELS

log = logging.getLogger("cardiojax")

OFF_MM = 1.0               # slices that lie farther than this from an even stack are named
SAID = ", ".join(f"{i} {name}" for i, name in enumerate(LABELS) if i)        # in the header


def write_masks(prediction: Prediction, folder: Path, every_phase: bool = False) -> list[Path]:
    """STUDY_ED.nii.gz and STUDY_ES.nii.gz, and of a cine with `every_phase` STUDY_cine.nii.gz; the files.

    Labels (`units.LABELS`, cleaned) on the grid of the input: of a NIfTI file its shape and affine, of DICOM a volume
    of the stack, base → apex, with empty slices where the stack has gaps. A prediction without masks or without a grid
    gives none.
    """
    study, curve = prediction.study, prediction.curve
    if study is None or study.masks is None or study.grid is None:
        return []
    if study.grid.off_mm > OFF_MM:
        log.warning("study %s: its slices lie up to %.1f mm off an even stack, which NIfTI masks are written as",
                    study.study_id, study.grid.off_mm)
    masks = cleaned(study.masks)
    wanted = {"ED": (masks[..., ED], study.grid), "ES": (masks[..., ES], study.grid)}
    if every_phase and curve is not None and curve.labels is not None and curve.grid is not None:
        wanted["cine"] = cleaned(curve.labels), curve.grid
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (labels, grid) in wanted.items():
        files.append(folder / f"{prediction.study_id}_{name}.nii.gz")
        write_bytes(files[-1], gzip.compress(label_image(labels, grid).to_bytes(), mtime=0))
    return files


def label_image(labels: UInt8[np.ndarray, "s h w *t"], grid: Grid) -> nib.Nifti1Image:
    """Labels of a prepared study's slices as an image (column, row, slice, and phase) of its source's grid."""
    volume = np.zeros((*grid.shape, *labels.shape[3:]), np.uint8)
    volume[list(grid.at)] = grid.labels_as_read(labels)
    image = nib.Nifti1Image(np.moveaxis(volume, (0, 1, 2), (2, 1, 0)), grid.affine)
    image.header.set_xyzt_units(xyz=grid.unit)
    if grid.pixdim is not None:
        image.header.set_zooms((*grid.pixdim, *image.header.get_zooms()[3:]))
    image.header["descrip"] = SAID
    return image
