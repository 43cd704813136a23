"""DICOM folders → `Study` or `Cine`, with the challenge's known faults handled and named in the log.

Facts and faults: Kaggle Second Annual Data Science Bowl, 2016, and what its best entries did about them.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from cardiojax.errors import StudyError
from cardiojax.readers import geometry
from cardiojax.readers.cycle import ed_es_phases
from cardiojax.readers.dicom_header import read_headers
from cardiojax.readers.phases import Acquisition, nearer_the_r_wave
from cardiojax.readers.series import short_axis
from cardiojax.readers.slices import Wanted, assembled, group
from cardiojax.study import Cine, Study

log = logging.getLogger("cardiojax")


def read_dicom_study(path: Path, frames: tuple[int, int] | None = None, masks: tuple[Path, Path] | None = None,
                     study_id: str | None = None, series: str | None = None) -> Study:
    """Read one study: a folder with `sax_*` series below it, or any folder whose short-axis cine `series.short_axis`
    finds.

    frames: 1-based phases of ED and ES; found by `find_ed_es` where not given.
    series: number or name of the series to read.
    masks: NIfTI label images at ED and ES in patient space, matched to slices by position.
    Returns frames in the scanner's own values. Raises StudyError with one line where nothing can be used.
    Every dropped file or slice is a line in the log, with its reason.
    """
    study_id, acquisitions, normal = acquired(path, study_id, series)
    ed, es = frames or find_ed_es(acquisitions, study_id)
    cycle = max((a.numbers for a in acquisitions), key=len)
    chosen = [Wanted(a, {f"{name} (phase {n})": a.standing_for(n, cycle) for name, n in (("ED", ed), ("ES", es))})
              for a in acquisitions]
    stack = assembled(chosen, normal, study_id)
    labels = None
    if masks:
        labels = np.stack([geometry.masks_onto(stack.planes, nib.load(m), study_id, phase)
                           for m, phase in zip(masks, ("ED", "ES"), strict=True)], axis=-1)
    return Study(study_id=study_id, frames=stack.frames, masks=labels, slice_spacing_mm=stack.spacing_mm,
                 positions_mm=stack.positions_mm, pixel_spacing_mm=stack.planes[0].spacing_mm, frame_numbers=(ed, es),
                 notes=stack.notes, patient=stack.patient, grid=stack.grid)


def read_dicom_cine(path: Path, study_id: str | None = None, series: str | None = None) -> Cine:
    """Every phase of a study that `read_dicom_study` would read, in order of time.

    The mean of its neighbours stands for a phase that a slice lacks; slices that lack two in a row are left out. Either
    is a line in the log.
    """
    study_id, acquisitions, normal = acquired(path, study_id, series)
    numbers = whole_slices(acquisitions, study_id)[0].numbers
    stack = assembled([Wanted(a, {f"phase {n}": a.standing_for(n, numbers) for n in numbers}) for a in acquisitions],
                      normal, study_id)
    times = [t for a in stack.acquisitions if len(a.images) == len(numbers) and (t := a.times_ms) is not None]
    phase_ms = np.median(np.array(times), axis=0) if times else None
    if phase_ms is not None and not (np.diff(phase_ms) > 0).all():
        phase_ms = None
    return Cine(study_id, stack.frames, slice_spacing_mm=stack.spacing_mm, positions_mm=stack.positions_mm,
                pixel_spacing_mm=stack.planes[0].spacing_mm, notes=stack.notes, phase_ms=phase_ms, numbers=numbers,
                patient=stack.patient, grid=stack.grid)


def acquired(path: Path, study_id: str | None, series: str | None) -> tuple[str, list[Acquisition], np.ndarray]:
    """The study's name, its slices as acquired, and the normal that their positions are measured along."""
    path = Path(path)
    study_id = study_id or (path.parent.name if path.name == "study" else path.name)
    images = read_headers(path, study_id)
    if series or not all(i.path.parent.name.startswith("sax_") for i in images):     # that name says what they are
        images = short_axis(images, study_id, series)
    return study_id, *group(images, study_id)


def whole_slices(acquisitions: list[Acquisition], study_id: str) -> list[Acquisition]:
    """The slices with every phase. Raises StudyError where that is one."""
    most = max(len(a.images) for a in acquisitions if 0 not in a.numbers)
    if most < 2:
        raise StudyError(f"study {study_id}: one phase a slice, so there is no ES frame")
    return [a for a in acquisitions if len(a.images) == most and 0 not in a.numbers]


def find_ed_es(acquisitions: list[Acquisition], study_id: str) -> tuple[int, int]:
    """Phases of ED and ES where they are not given: of two ED is the one nearer to the R wave, of a whole cine they are
    `cycle.ed_es_phases`'s."""
    whole = whole_slices(acquisitions, study_id)
    numbers = whole[0].numbers
    if len(numbers) == 2:
        return nearer_the_r_wave(whole)
    cines = readable(whole)
    if not cines:
        raise StudyError(f"study {study_id}: no slice's cine can be read, so ED and ES cannot be found")
    ed, es = (numbers[t] for t in ed_es_phases(cines))
    log.info("study %s: ED is phase %d, ES phase %d of %d (largest change)", study_id, ed, es, len(numbers))
    return ed, es


def readable(acquisitions: Sequence[Acquisition]) -> list[np.ndarray]:
    """The cines, (phases, H, W), of the slices whose every phase can be decoded."""
    cines = []
    for a in acquisitions:
        try:
            cines.append(np.stack([i.pixels() for i in a.images]))
        except Exception:                               # noqa: S112  `slices.decode` will say why
            continue
    return cines
