"""NIfTI ED/ES pairs → `Study`: ACDC's layout, ukbb_cardiac's, or any two files."""

import configparser
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from cardiojax.errors import StudyError, one_line
from cardiojax.grid import Grid
from cardiojax.readers import geometry
from cardiojax.readers.cycle import ed_es_phases
from cardiojax.study import Cine, Patient, Study
from cardiojax.units import LV

log = logging.getLogger("cardiojax")

ACDC_LABELS = {1: 3, 2: 2, 3: 1}        # theirs: 1 RV, 2 myocardium, 3 LV
Pair = tuple[Path, Path]
MAX_STEP_MS = 500          # between phases of a cine; a header with more than that means something else
# what nibabel and numpy raise over a damaged file
UNREADABLE = (OSError, EOFError, ValueError, OverflowError, IndexError, KeyError, TypeError, MemoryError,
              ImageFileError, HeaderDataError)


def read_nifti_study(frames: Pair, masks: Pair | None = None, label_map: dict[int, int] | None = None,
                     study_id: str = "") -> Study:
    """Two 3D images (x, y, z), ED and ES, → Study with slices along z, base → apex.

    Spacings come from pixdim: published affines may lack them. `label_map` turns the file's labels into ours.
    Raises StudyError with one line where a file is missing, unreadable or of another shape.
    """
    ed, es = (load(f, study_id) for f in frames)
    if ed.shape != es.shape or len(ed.shape) != 3:
        raise StudyError(f"study {study_id}: ED {ed.shape} and ES {es.shape} must be 3D and of one shape")
    x_mm, y_mm, z_mm = spacing_mm(ed, study_id)
    labels = None
    if masks:
        labels = np.stack([read_mask(load(m, study_id), ed, phase, study_id)
                           for m, phase in zip(masks, ("ED", "ES"), strict=True)], axis=-1)
        labels = relabel(labels, label_map, study_id)
    images = stack([pixels(i, study_id).astype(np.float32) for i in (ed, es)])
    normal_lps = np.asarray(ed.affine)[:3, 2] * [-1, -1, 1]
    order = geometry.towards_apex(normal_lps, study_id, acquisition_order=1.0)
    return Study(study_id=study_id, frames=images[::order], masks=None if labels is None else labels[::order],
                 slice_spacing_mm=z_mm, pixel_spacing_mm=(y_mm, x_mm), grid=grid_of(ed, (y_mm, x_mm), order))


def read_nifti_cine(file: Path, frames: tuple[int, int] | None = None, study_id: str = "",
                    masks: Path | None = None) -> Study:
    """A 4D image (x, y, z, t) → Study.

    ED and ES are the 1-based `frames`, else the two phases that `masks` (4D, our labels) hold, the one with the larger
    LV first, else `cycle.ed_es_phases`'s.
    """
    cine, labels = _read_4d(file, study_id, masks)
    phases = cine.frames.shape[-1]
    if frames is None:
        if labels is not None:
            frames = labelled_phases(labels, study_id)
        else:
            ed, es = (0, 1) if phases == 2 else ed_es_phases(cine.frames.transpose(0, 3, 1, 2))
            frames = (ed + 1, es + 1)
        log.info("study %s: ED is phase %d, ES phase %d of %d", study_id, *frames, phases)
    study = cine.study(*frames)
    if labels is None:
        return study
    return study.replace(masks=relabel(labels[..., [n - 1 for n in frames]], None, study_id))


def read_nifti_phases(file: Path, study_id: str = "") -> Cine:
    """A 4D image (x, y, z, t) → Cine. The times of its phases are the header's, where it has a unit for them."""
    return _read_4d(file, study_id)[0]


def _read_4d(file: Path, study_id: str, masks: Path | None = None) -> tuple[Cine, np.ndarray | None]:
    """A 4D image, and its labels on the same pixels."""
    image, labels = load(file, study_id), None
    if len(image.shape) != 4 or image.shape[3] < 2:
        raise StudyError(f"study {study_id}: {Path(file).name} has shape {image.shape}, expected (x, y, z, phases)")
    order = geometry.towards_apex(np.asarray(image.affine)[:3, 2] * [-1, -1, 1], study_id, acquisition_order=1.0)
    frames = pixels(image, study_id).astype(np.float32).transpose(2, 1, 0, 3)[::order]
    if masks is not None:
        labels = pixels(load(masks, study_id), study_id)
        if labels.shape != image.shape:
            raise StudyError(f"study {study_id}: masks of shape {labels.shape}, images of {image.shape}")
        labels = labels.transpose(2, 1, 0, 3)[::order]
    x_mm, y_mm, z_mm = spacing_mm(image, study_id)
    step_ms = float(image.header["pixdim"][4]) * {"sec": 1000, "msec": 1, "usec": 0.001}.get(
        image.header.get_xyzt_units()[1], 0)
    return Cine(study_id, frames, slice_spacing_mm=z_mm, pixel_spacing_mm=(y_mm, x_mm),
                grid=grid_of(image, (y_mm, x_mm), order),
                phase_ms=step_ms * np.arange(frames.shape[-1]) if 0 < step_ms < MAX_STEP_MS else None), labels


def grid_of(image: nib.Nifti1Image, spacing_mm: tuple[float, float], order: int) -> Grid:
    """order: −1 where the study has the slices the other way round."""
    x, y, z = image.shape[:3]
    x_pixdim, y_pixdim, z_pixdim = (float(z) for z in image.header.get_zooms()[:3])
    return Grid(np.asarray(image.affine), (z, y, x), tuple(range(z))[::order], spacing_mm,
                unit=image.header.get_xyzt_units()[0], pixdim=(x_pixdim, y_pixdim, z_pixdim))


def labelled_phases(labels: np.ndarray, study_id: str) -> tuple[int, int]:
    """1-based ED and ES: the two phases with labels, the larger LV first."""
    at = np.flatnonzero(labels.any(axis=(0, 1, 2)))
    if len(at) != 2:
        raise StudyError(f"study {study_id}: {len(at)} phases have labels, expected ED and ES")
    ed, es = sorted(at, key=lambda t: -np.count_nonzero(labels[..., t] == LV))
    return int(ed) + 1, int(es) + 1


def read_mask(mask: nib.Nifti1Image, image: nib.Nifti1Image, phase: str, study_id: str) -> np.ndarray:
    """Labels on the image's slices, (z, y, x): as they stand on the same grid, else matched by physical position."""
    if np.allclose(mask.affine, image.affine, atol=1e-3):
        if mask.shape != image.shape:
            raise StudyError(f"study {study_id}: {phase} mask of shape {mask.shape}, image of {image.shape}")
        return pixels(mask, study_id).transpose(2, 1, 0)
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    planes = [geometry.Plane((lps @ [0, 0, k, 1])[:3], lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1],
                             (spacing[1], spacing[0]), (image.shape[1], image.shape[0]))
              for k in range(image.shape[2])]
    try:
        return geometry.masks_onto(planes, mask, study_id, phase)
    except (OSError, EOFError, ValueError) as error:
        raise StudyError(f"study {study_id}: {phase} mask unreadable ({one_line(error)})") from None


def read_acdc(folder: Path) -> Study:
    """One patient of ACDC (Bernard et al. 2018): Info.cfg names the frames; masks where `_gt` stands beside."""
    folder = Path(folder)
    info = acdc_info(folder)
    stems = [f"{folder.name}_frame{int(info[phase]):02d}" for phase in ("ED", "ES")]
    frames = tuple(existing(folder, stem) for stem in stems)
    masks = tuple(existing(folder, f"{stem}_gt", required=False) for stem in stems)
    study = read_nifti_study(frames, masks if all(masks) else None, ACDC_LABELS, folder.name)
    return study.replace(frame_numbers=(int(info["ED"]), int(info["ES"])), patient=acdc_patient(info))


def acdc_patient(info: dict[str, str]) -> Patient:
    """Height (cm) and weight (kg) of Info.cfg, where they are numbers."""
    def number(key: str) -> float | None:
        try:
            return float(info[key])
        except (KeyError, ValueError):
            return None

    return Patient(number("Height"), number("Weight"))


def acdc_info(folder: Path) -> dict[str, str]:
    """ED and ES (1-based frames), Group and the rest of Info.cfg. Raises StudyError where ED or ES is missing."""
    parser = configparser.ConfigParser()
    parser.optionxform = str             # pyright: ignore[reportAttributeAccessIssue]  the way it is documented
    try:
        parser.read_string("[info]\n" + (folder / "Info.cfg").read_text())
        info = dict(parser["info"])
        for phase in ("ED", "ES"):
            int(info[phase])
    except (OSError, configparser.Error, KeyError, ValueError) as error:
        raise StudyError(f"study {folder.name}: Info.cfg does not name the ED and ES frames "
                         f"({one_line(error)})") from None
    return info


def existing(folder: Path, stem: str, required: bool = True) -> Path | None:
    for suffix in (".nii.gz", ".nii"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    if required:
        raise StudyError(f"study {folder.name}: {stem}.nii.gz is missing")
    return None


def load(file: Path, study_id: str) -> nib.Nifti1Image:
    try:
        image = nib.load(file)
        with ImageOpener(str(file)) as stream:      # nibabel turns a spacing of zero into 1 mm, unasked
            spacing = type(image.header).from_fileobj(stream, check=False)["pixdim"][1:4]
    except UNREADABLE as error:
        raise StudyError(f"study {study_id}: cannot read {Path(file).name} ({one_line(error)})") from None
    if not (np.isfinite(spacing).all() and np.all(spacing != 0)):
        raise StudyError(f"study {study_id}: {Path(file).name} has spacing {spacing.tolist()} mm")
    return image


def spacing_mm(image: nib.Nifti1Image, study_id: str) -> tuple[float, float, float]:
    """Along x, y and z. Where pixdim and the affine disagree, the one that is not all 1 (as ACDC's affines and some
    converters' pixdim are). Raises StudyError where neither is."""
    pixdim = np.array([float(z) for z in image.header.get_zooms()[:3]])
    affine = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    found = pixdim
    if not np.allclose(affine, pixdim, rtol=1e-2):
        if not (unset := [np.allclose(s, 1.0, atol=1e-3) for s in (pixdim, affine)]).count(True):
            raise StudyError(f"study {study_id}: pixdim says {said(pixdim)} mm, the affine {said(affine)} mm")
        found, name = (affine, "the affine's") if unset[0] else (pixdim, "pixdim's")
        log.warning("study %s: pixdim says %s mm, the affine %s mm; %s is used", study_id, said(pixdim), said(affine),
                    name)
    x_mm, y_mm, z_mm = found * {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
    return float(x_mm), float(y_mm), float(z_mm)


def said(spacing: np.ndarray) -> str:
    return " × ".join(f"{s:.4g}" for s in spacing)


def pixels(image: nib.Nifti1Image, study_id: str) -> np.ndarray:
    try:
        return np.asarray(image.dataobj)
    except UNREADABLE as error:
        name = Path(image.get_filename() or "image").name
        raise StudyError(f"study {study_id}: {name} is truncated ({one_line(error)})") from None


def stack(pair: list[np.ndarray]) -> np.ndarray:
    """Two (x, y, z) volumes → (z, y, x, 2), so that rows run along y as in DICOM."""
    return np.stack([v.transpose(2, 1, 0) for v in pair], axis=-1)


def relabel(labels: np.ndarray, label_map: dict[int, int] | None, study_id: str) -> np.ndarray:
    if label_map is None:
        return labels.astype(np.uint8)
    unknown = sorted(set(np.unique(labels).tolist()) - {0, *label_map})
    if unknown:
        raise StudyError(f"study {study_id}: unknown labels {unknown} in the masks")
    out = np.zeros(labels.shape, np.uint8)
    for theirs, ours in label_map.items():
        out[labels == theirs] = ours
    return out
