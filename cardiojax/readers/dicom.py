"""DICOM folders → `Study`, with the challenge's known faults handled and named in the log.

Facts and faults: Kaggle Second Annual Data Science Bowl, 2016, and what its best entries did about them.
"""

import collections
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from cardiojax.errors import StudyError, one_line
from cardiojax.readers import geometry
from cardiojax.readers.cycle import es_phase, middle
from cardiojax.readers.dicom_header import Image, read_headers
from cardiojax.readers.geometry import Plane
from cardiojax.readers.series import PARALLEL, short_axis
from cardiojax.study import Cine, Study

log = logging.getLogger("cardiojax")

SAME_POSITION_MM = 2.0


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """The phases of one slice position, in order of time, as one series (and trial) recorded them."""

    images: tuple[Image, ...]
    position_mm: float

    @property
    def name(self) -> str:
        first = self.images[0]
        return first.path.parent.name + (f" (part {first.third})" if first.third else "")

    @property
    def order(self) -> tuple[int, int, int]:
        return self.images[0].series, self.images[0].third, self.images[0].order

    def phase(self, number: int) -> Image | None:
        """The image of a 1-based phase: by rank where the cycle is complete, else by the recorded number."""
        expected = self.images[0].phases
        if expected and len(self.images) >= expected:
            return self.images[number - 1] if number <= len(self.images) else None
        return next((i for i in self.images if i.phase == number), None)


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
    chosen = [Phases(a, {f"{name} (phase {n})": a.phase(n) for name, n in (("ED", ed), ("ES", es))})
              for a in acquisitions]
    stack = assembled(chosen, normal, study_id)
    labels = None
    if masks:
        labels = np.stack([geometry.masks_onto(stack.planes, nib.load(m), study_id, phase)
                           for m, phase in zip(masks, ("ED", "ES"), strict=True)], axis=-1)
    return Study(study_id=study_id, frames=stack.frames, masks=labels, slice_spacing_mm=stack.spacing_mm,
                 positions_mm=stack.positions_mm, pixel_spacing_mm=stack.planes[0].spacing_mm, frame_numbers=(ed, es),
                 notes=stack.notes)


def read_dicom_cine(path: Path, study_id: str | None = None, series: str | None = None) -> Cine:
    """Every phase of a study that `read_dicom_study` would read, in order of time within each slice.

    Slices with another number of phases than most are left out, with a line in the log.
    """
    study_id, acquisitions, normal = acquired(path, study_id, series)
    phases = most_phases(acquisitions, study_id)
    whole = []
    for a in acquisitions:
        if len(a.images) == phases:
            whole.append(Phases(a, {f"phase {n}": image for n, image in enumerate(a.images, start=1)}))
        else:
            log.warning("study %s: slice %s dropped: %d phases, the others have %d", study_id, a.name, len(a.images),
                        phases)
    stack = assembled(whole, normal, study_id)
    times = np.array([[i.trigger_ms for i in a.images] for a in stack.acquisitions], float)
    phase_ms = np.median(times, axis=0)
    return Cine(study_id, stack.frames, slice_spacing_mm=stack.spacing_mm, positions_mm=stack.positions_mm,
                pixel_spacing_mm=stack.planes[0].spacing_mm, notes=stack.notes,
                phase_ms=phase_ms if (np.diff(phase_ms) > 0).all() else None)


def acquired(path: Path, study_id: str | None, series: str | None) -> tuple[str, list[Acquisition], np.ndarray]:
    """The study's name, its slices as acquired, and the normal that their positions are measured along."""
    path = Path(path)
    study_id = study_id or (path.parent.name if path.name == "study" else path.name)
    images = read_headers(path, study_id)
    if series or not all(i.path.parent.name.startswith("sax_") for i in images):     # that name says what they are
        images = short_axis(images, study_id, series)
    return study_id, *group(images, study_id)


@dataclasses.dataclass(frozen=True)
class Phases:
    """The images wanted of one slice, by what they are called in the log; None for one that it lacks."""

    acquisition: Acquisition
    images: dict[str, Image | None]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Slices on one grid, base → apex; frames: (S, H, W, T)."""

    acquisitions: list[Acquisition]
    frames: np.ndarray
    planes: list[Plane]
    positions_mm: np.ndarray
    spacing_mm: float
    notes: tuple[str, ...]


def assembled(slices: list[Phases], normal: np.ndarray, study_id: str) -> Stack:
    """Those slices that have all that is wanted of them, each position once, decoded. Raises StudyError for none."""
    complete = []
    for s in slices:
        missing = [name for name, image in s.images.items() if image is None]
        if missing:
            log.warning("study %s: slice %s dropped: no %s frame", study_id, s.acquisition.name,
                        " and no ".join(missing))
        else:
            complete.append(s)
    ordered = order_base_to_apex(deduplicate([s.acquisition for s in complete], study_id), normal, study_id)
    wanted = {id(s.acquisition): list(s.images.values()) for s in complete}
    decoded = [(a, p) for a in ordered if (p := decode(a, wanted[id(a)], study_id)) is not None]
    if ordered and not decoded:
        raise StudyError(f"study {study_id}: the pixels of none of {len(ordered)} slices can be read (see the log)")
    if not decoded:
        raise StudyError(f"study {study_id}: no slice has both an ED and an ES frame "
                         f"({' and '.join(slices[0].images)})")
    kept, pixels = [a for a, _ in decoded], [p for _, p in decoded]
    planes, pixels = onto_one_grid([a.images[0].plane for a in kept], pixels, [a.name for a in kept], study_id)
    positions = np.array([a.position_mm for a in kept])
    check_slice_location(kept, positions, study_id)
    spacing_mm, gaps = geometry.slice_spacing_mm(positions, study_id, kept[0].images[0].thickness_mm)
    return Stack(kept, np.stack(pixels), planes, positions, spacing_mm, tuple(gaps))


def group(images: list[Image], study_id: str) -> tuple[list[Acquisition], np.ndarray]:
    """Images → slices: non-parallel planes dropped, one acquisition a series, part and position.

    Also the normal that the positions are measured along. Slices with rows and columns exchanged have the opposite
    one, so whatever depends on the direction must use this and no slice's own.
    """
    normals = np.stack([i.plane.normal for i in images])
    votes = (np.abs(normals @ normals.T) > PARALLEL).sum(axis=1)
    reference = normals[votes.argmax()]
    slices = collections.defaultdict(list)
    skew = collections.Counter()
    for image, normal in zip(images, normals, strict=True):
        if abs(float(normal @ reference)) < PARALLEL:
            skew[image.path.parent.name] += 1
        else:
            position = float(image.plane.origin @ reference)
            slices[image.path.parent, image.series, image.third, round(position)].append((image, position))
    for name, count in skew.items():
        log.warning("study %s: slice %s dropped: its plane is not parallel to the others (%d files)",
                    study_id, name, count)
    out = []
    for members in slices.values():
        phases = sorted((i for i, _ in members), key=lambda i: i.order)
        expected = phases[0].phases
        if expected and len(phases) > expected:
            log.warning("study %s: slice %s: %d frames of a %d-phase cycle, the last trial is kept",
                        study_id, phases[0].path.parent.name, len(phases), expected)
            phases = phases[-expected:]
        out.append(Acquisition(tuple(sorted(phases, key=lambda i: (i.trigger_ms, i.order))),
                               float(np.mean([p for _, p in members]))))
    return sorted(out, key=lambda a: a.order), reference


def find_ed_es(acquisitions: list[Acquisition], study_id: str) -> tuple[int, int]:
    """Phases of ED and ES where they are not given: ED is the first after the R wave.

    Of two phases the second is ES, of a whole cine `cycle.es_phase`.
    """
    phases = most_phases(acquisitions, study_id)
    if phases == 2:
        pair = next(a for a in acquisitions if len(a.images) == 2)
        numbers = [i.phase for i in pair.images]
        if pair.images[0].phases and pair.images[0].phases > 2 and None not in numbers:
            return numbers[0], numbers[1]
        return 1, 2
    full = [a for a in acquisitions if len(a.images) == phases]
    cines = readable(middle(full)) or readable(full)
    if not cines:
        raise StudyError(f"study {study_id}: no slice's cine can be read, so ES cannot be found")
    es = es_phase(cines)
    log.info("study %s: ED is phase 1, ES phase %d of %d (largest change from ED)", study_id, es + 1, phases)
    return 1, es + 1


def most_phases(acquisitions: list[Acquisition], study_id: str) -> int:
    """The number of phases that most slices have. Raises StudyError where it is one."""
    phases = collections.Counter(len(a.images) for a in acquisitions).most_common(1)[0][0]
    if phases < 2:
        raise StudyError(f"study {study_id}: one phase a slice, so there is no ES frame")
    return phases


def readable(acquisitions: Sequence[Acquisition]) -> list[np.ndarray]:
    """The cines, (phases, H, W), of the slices whose every phase can be decoded."""
    cines = []
    for a in acquisitions:
        try:
            cines.append(np.stack([i.pixels() for i in a.images]))
        except Exception:                               # `decode` will say why
            continue
    return cines


def deduplicate(acquisitions: list[Acquisition], study_id: str) -> list[Acquisition]:
    """Of slices within 2 mm of each other the last acquired is kept."""
    kept: list[Acquisition] = []
    for a in reversed(acquisitions):
        twin = next((k for k in kept if abs(k.position_mm - a.position_mm) < SAME_POSITION_MM), None)
        if twin:
            log.warning("study %s: slice %s dropped: same position as %s, acquired later (%.1f mm)",
                        study_id, a.name, twin.name, a.position_mm)
        else:
            kept.append(a)
    return kept[::-1]


def order_base_to_apex(acquisitions: list[Acquisition], normal: np.ndarray, study_id: str) -> list[Acquisition]:
    """`normal`: the one that the positions are measured along (`group`)."""
    if len(acquisitions) < 2:
        return acquisitions
    positions = np.array([a.position_mm for a in acquisitions])       # acquisitions stand in acquired order
    ranks = np.arange(len(positions)) - (len(positions) - 1) / 2
    sign = geometry.towards_apex(normal, study_id, float(ranks @ (positions - positions.mean())))
    return sorted(acquisitions, key=lambda a: sign * a.position_mm)


def decode(a: Acquisition, images: list[Image], study_id: str) -> np.ndarray | None:
    """The pixels of images of one slice, (H, W, T), or None (logged) where they cannot be decoded."""
    try:
        frames = np.stack([i.pixels() for i in images], axis=-1)
        if bad := int((~np.isfinite(frames)).sum()):
            raise ValueError(f"{bad} pixels are NaN or infinite")
        return frames
    except Exception as error:                          # pydicom and its decoders raise many kinds
        log.warning("study %s: slice %s dropped: pixels unreadable (%s)", study_id, a.name, one_line(error))
        return None


def onto_one_grid(planes: list[Plane], pixels: list[np.ndarray], names: list[str], study_id: str
                  ) -> tuple[list[Plane], list[np.ndarray]]:
    """Slices of another size, spacing or in-plane rotation are resampled to the grid most slices have."""
    votes = [sum(p.same_grid(q) for q in planes) for p in planes]
    reference = planes[int(np.argmax(votes))]
    out_planes, out_pixels = [], []
    for plane, image, name in zip(planes, pixels, names, strict=True):
        if not plane.same_grid(reference):
            log.warning("study %s: slice %s: %d×%d at %.2f mm, rotated or unlike the others (%d×%d at %.2f mm), "
                        "resampled to their grid", study_id, name, *plane.shape, plane.spacing_mm[0],
                        *reference.shape, reference.spacing_mm[0])
            image = np.stack([geometry.regrid(image[..., i], plane, reference) for i in range(image.shape[-1])],
                             axis=-1)
            shift = float((plane.origin - reference.origin) @ reference.normal)
            plane = dataclasses.replace(reference, origin=reference.origin + shift * reference.normal)
        out_planes.append(plane)
        out_pixels.append(image)
    return out_planes, out_pixels


def check_slice_location(kept: list[Acquisition], positions: np.ndarray, study_id: str):
    """SliceLocation is never used; where its steps contradict the positions, say so."""
    locations = [a.images[0].slice_location for a in kept]
    if len(kept) > 1 and None not in locations:
        error = np.abs(np.abs(np.diff(np.array(locations, float))) - np.abs(np.diff(positions))).max()
        if error > 1.0:
            log.warning("study %s: SliceLocation steps differ from ImagePositionPatient by up to %.1f mm, "
                        "ImagePositionPatient is used", study_id, error)
