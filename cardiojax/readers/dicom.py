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
from cardiojax.study import Study

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
    path = Path(path)
    study_id = study_id or (path.parent.name if path.name == "study" else path.name)
    images = read_headers(path, study_id)
    if series or not all(i.path.parent.name.startswith("sax_") for i in images):     # that name says what they are
        images = short_axis(images, study_id, series)
    acquisitions, normal = group(images, study_id)
    ed, es = frames or find_ed_es(acquisitions, study_id)
    complete = []
    for a in acquisitions:
        missing = [f"{name} (phase {n})" for name, n in (("ED", ed), ("ES", es)) if a.phase(n) is None]
        if missing:
            log.warning("study %s: slice %s dropped: no %s frame", study_id, a.name, " and no ".join(missing))
        else:
            complete.append(a)
    kept = order_base_to_apex(deduplicate(complete, study_id), normal, study_id)
    slices = [s for a in kept if (s := decode(a, ed, es, study_id))]
    if kept and not slices:
        raise StudyError(f"study {study_id}: the pixels of none of {len(kept)} slices can be read (see the log)")
    if not slices:
        raise StudyError(f"study {study_id}: no slice has both an ED and an ES frame (phases {ed} and {es})")
    kept, pixels = [a for a, _ in slices], [p for _, p in slices]
    planes = [a.images[0].plane for a in kept]
    planes, pixels = onto_one_grid(planes, pixels, [a.name for a in kept], study_id)
    labels = None
    if masks:
        labels = np.stack([geometry.masks_onto(planes, nib.load(m), study_id, phase)
                           for m, phase in zip(masks, ("ED", "ES"), strict=True)], axis=-1)
    positions = np.array([a.position_mm for a in kept])
    check_slice_location(kept, positions, study_id)
    spacing_mm, gaps = geometry.slice_spacing_mm(positions, study_id, kept[0].images[0].thickness_mm)
    return Study(study_id=study_id, frames=np.stack(pixels), masks=labels, slice_spacing_mm=spacing_mm,
                 positions_mm=positions, pixel_spacing_mm=planes[0].spacing_mm, frame_numbers=(ed, es),
                 notes=tuple(gaps))


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
    counts = collections.Counter(len(a.images) for a in acquisitions)
    phases = counts.most_common(1)[0][0]
    if phases < 2:
        raise StudyError(f"study {study_id}: one phase a slice, so there is no ES frame")
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


def decode(a: Acquisition, ed: int, es: int, study_id: str) -> tuple[Acquisition, np.ndarray] | None:
    """The pixels of one slice, (H, W, 2), or None (logged) where they cannot be decoded."""
    try:
        frames = np.stack([a.phase(n).pixels() for n in (ed, es)], axis=-1)  # pyright: ignore[reportOptionalMemberAccess]
        if bad := int((~np.isfinite(frames)).sum()):
            raise ValueError(f"{bad} pixels are NaN or infinite")
        return a, frames
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
            image = np.stack([geometry.regrid(image[..., i], plane, reference) for i in range(2)], axis=-1)
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
