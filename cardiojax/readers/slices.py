"""Images of a study → slices: by position, each once, base → apex, on one grid."""

import collections
import dataclasses
import logging

import numpy as np

from cardiojax.errors import StudyError, one_line
from cardiojax.grid import Grid, SourceImage
from cardiojax.readers import geometry
from cardiojax.readers.dicom_header import Image
from cardiojax.readers.geometry import Plane
from cardiojax.readers.phases import REFILLED, Acquisition, numbered
from cardiojax.readers.series import PARALLEL
from cardiojax.study import Patient

log = logging.getLogger("cardiojax")

SAME_POSITION_MM = 2.0


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The images wanted of one slice, by what they are called in the log: several where their mean is wanted, none of
    what it lacks."""

    acquisition: Acquisition
    images: dict[str, tuple[Image, ...]]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Slices on one grid, base → apex; frames: (S, H, W, T)."""

    acquisitions: list[Acquisition]
    frames: np.ndarray
    planes: list[Plane]
    positions_mm: np.ndarray
    spacing_mm: float
    notes: tuple[str, ...]
    grid: Grid

    @property
    def patient(self) -> Patient:
        """Height and weight as the first image says; the heart rate that it says, or the usual distance of R waves."""
        images = [i for a in self.acquisitions for i in a.images]
        rates = [i.heart_rate_bpm for i in images if i.heart_rate_bpm] or [
            60_000 / i.cycle_ms for i in images if i.cycle_ms]
        return Patient(None if not images[0].height_m else 100 * images[0].height_m, images[0].weight_kg or None,
                       float(np.median(rates)) if rates else None)


def group(images: list[Image], study_id: str) -> tuple[list[Acquisition], np.ndarray]:
    """Images → slices: non-parallel planes dropped, one acquisition a series, part and position.

    Also the normal that the positions are measured along. Slices with rows and columns exchanged have the opposite
    one, so whatever depends on the direction must use this and no slice's own.
    """
    normals = np.stack([i.plane.normal for i in images])
    votes = (np.abs(normals @ normals.T) > PARALLEL).sum(axis=1)
    reference = normals[votes.argmax()]
    series, skew = collections.defaultdict(list), collections.Counter()
    for image, normal in zip(images, normals, strict=True):
        if abs(float(normal @ reference)) < PARALLEL:
            skew[image.path.parent.name] += 1
        else:
            series[image.path.parent, image.series, image.third].append(image)
    for name, count in skew.items():
        log.warning("study %s: slice %s dropped: its plane is not parallel to the others (%d files)",
                    study_id, name, count)
    slices = []
    for members in series.values():
        positions = np.array([float(i.plane.origin @ reference) for i in members])
        for which in geometry.clusters(positions):
            slices.append(([members[k] for k in which], float(positions[which].mean())))
    return sorted(numbered(slices, study_id), key=lambda a: a.order), reference


def assembled(slices: list[Wanted], normal: np.ndarray, study_id: str) -> Stack:
    """Those slices that have all that is wanted of them, each position once, decoded. Raises StudyError for none."""
    complete = []
    for s in slices:
        missing = [name for name, images in s.images.items() if not images]
        if refilled := [name for name, images in s.images.items() if len(images) > 1]:
            log.warning("study %s: slice %s lacks %s: the mean of its neighbours stands for it", study_id,
                        s.acquisition.name, " and ".join(refilled))
        if missing:
            log.warning("study %s: slice %s dropped: no %s frame", study_id, s.acquisition.name,
                        " and no ".join(missing))
        else:
            complete.append(s)
    ordered = order_base_to_apex(deduplicate([s.acquisition for s in complete], study_id), normal, study_id)
    images = {id(s.acquisition): list(s.images.values()) for s in complete}
    decoded = [(a, p) for a in ordered if (p := decode(a, images[id(a)], study_id)) is not None]
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
    sources = tuple(tuple(SourceImage(i[0].path, i[0].frame) for i in images[id(a)]) for a in kept)
    grid = dataclasses.replace(geometry.volume_of(planes, positions, spacing_mm), sources=sources)
    return Stack(kept, np.stack(pixels), planes, positions, spacing_mm, tuple(gaps), grid)


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


def decode(a: Acquisition, images: list[tuple[Image, ...]], study_id: str) -> np.ndarray | None:
    """The pixels of images of one slice (means where there are several), (H, W, T), or None (logged) where they cannot
    be decoded. In a cine the mean of its neighbours stands for a phase that cannot, as for one that was lost."""
    frames, why = [], {}
    for t, several in enumerate(images):
        try:
            frame = np.mean([i.pixels() for i in several], axis=0)
            if bad := int((~np.isfinite(frame)).sum()):
                raise ValueError(f"{bad} pixels are NaN or infinite")
            frames.append(frame)
        except Exception as error:                      # pydicom and its decoders raise many kinds
            why[t] = one_line(error)
            frames.append(None)
    for t, reason in why.items():
        beside = frames[t - 1], frames[(t + 1) % len(images)]
        if len(images) < REFILLED or any(frame is None for frame in beside):
            log.warning("study %s: slice %s dropped: pixels unreadable (%s)", study_id, a.name, reason)
            return None
    for t, reason in why.items():
        log.warning("study %s: slice %s: the mean of its neighbours stands for an unreadable image (%s)", study_id,
                    a.name, reason)
        frames[t] = (frames[t - 1] + frames[(t + 1) % len(images)]) / 2
    return np.stack(frames, axis=-1)


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
