"""The images of a slice in order of time, and which phase of the cycle each is.

Headers contradict each other: numbers run on through the stack (GE) or count slices first (Philips), counts are missing
or wrong, files get lost. So phases are ranks in time within a slice; recorded numbers and counts are hints, used where
all slices agree on them.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence

import numpy as np

from cardiojax.errors import StudyError
from cardiojax.readers.dicom_header import Image

log = logging.getLogger("cardiojax")

NEAR = 0.6                 # of the time between two phases: an image as near as this to a phase is of it
REFILLED = 6               # phases of a cycle in which the mean of its neighbours may stand for a lost one
CLOCKS: tuple[Callable[[Image], float | None], ...] = (          # what may say the order in time, the best first
    lambda i: i.trigger_ms, lambda i: i.temporal, lambda i: i.number, lambda i: i.clock_s)


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """The images of one slice position, in order of time, as one series (and trial) recorded them.

    numbers: the 1-based phase of each, in a cycle that all slices share.
    """

    images: tuple[Image, ...]
    position_mm: float
    numbers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        first = self.images[0]
        where = "" if first.path.parent.name.startswith("sax_") else f" at {self.position_mm:.0f} mm"
        return first.path.parent.name + where + (f" (part {first.third})" if first.third else "")

    @property
    def order(self) -> tuple[int, int, int]:
        return self.images[0].series, self.images[0].third, min(i.order for i in self.images)

    def phase(self, number: int) -> Image | None:
        """The image of a 1-based phase."""
        return next((i for i, n in zip(self.images, self.numbers, strict=True) if n == number), None)

    def standing_for(self, number: int, cycle: Sequence[int]) -> tuple[Image, ...]:
        """The image of a phase; where it was lost, those before and after it in a cycle of `REFILLED` phases or more;
        none where these were lost too."""
        if image := self.phase(number):
            return (image,)
        if number not in cycle or len(cycle) < REFILLED:
            return ()
        at = list(cycle).index(number)
        beside = [self.phase(cycle[(at + step) % len(cycle)]) for step in (-1, 1)]
        return tuple(i for i in beside if i is not None) if None not in beside else ()

    @property
    def times_ms(self) -> np.ndarray | None:
        """After the R wave, (T,); None where they are not known."""
        times = [i.trigger_ms for i in self.images]
        return None if None in times else np.array(times, float)


def in_time(images: Sequence[Image]) -> list[Image] | None:
    """One position's images by the first clock that tells all of them apart; None where there is none.

    Of images at the same trigger time (a trial repeated) the last acquired stays.
    """
    if all(i.trigger_ms is not None for i in images):
        latest = {i.trigger_ms: i for i in sorted(images, key=lambda i: i.order)}
        images = list(latest.values())
    for clock in CLOCKS:
        values = [clock(i) for i in images]
        if None not in values and len(set(values)) == len(values):
            return sorted(images, key=clock)                           # pyright: ignore[reportArgumentType]
    return None


def numbered(slices: Sequence[tuple[Sequence[Image], float]], study_id: str) -> list[Acquisition]:
    """Images and position of each slice → acquisitions whose phases are numbered alike.

    A slice with repeated trials keeps the last. One with a phase too few or many is fitted to the others by time.
    Raises StudyError where nothing says the order in time of any slice.
    """
    found = []
    for images, position_mm in slices:
        ordered = in_time(images)
        if ordered is None:
            log.warning("study %s: slice %s dropped: nothing says the order of its %d images in time (TriggerTime, "
                        "TemporalPositionIdentifier, InstanceNumber, AcquisitionTime)", study_id,
                        Acquisition(tuple(images), position_mm).name, len(images))
        else:
            found.append(Acquisition(tuple(ordered), position_mm))
            if len(ordered) < len(images):
                log.warning("study %s: slice %s: %d frames at %d times of the cycle, the last trial is kept", study_id,
                            found[-1].name, len(images), len(ordered))
    if not found:
        raise StudyError(f"study {study_id}: nothing says the order of the images in time (TriggerTime, "
                         "TemporalPositionIdentifier, InstanceNumber, AcquisitionTime)")
    phases = collections.Counter(len(a.images) for a in found).most_common(1)[0][0]
    whole = [a for a in found if len(a.images) == phases]
    labels = shared_numbers(whole) or tuple(range(1, phases + 1))
    counts = {i.phases for a in whole for i in a.images} - {None}
    if counts and counts != {phases} and phases > 2 and labels == tuple(range(1, phases + 1)):
        log.info("study %s: CardiacNumberOfImages says %s phases, the slices have %d", study_id,
                 ", ".join(map(str, sorted(counts))), phases)
    return [fitted(a, whole, labels, study_id) for a in found]


def shared_numbers(whole: Sequence[Acquisition]) -> tuple[int, ...] | None:
    """The recorded phases, where all slices record the same ones in order of time: of a part of a cycle."""
    count = max((i.phases or 0 for a in whole for i in a.images), default=0)

    def recorded(image: Image) -> int | None:
        number = image.temporal or image.number
        return number if number is None or not count else (number - 1) % count + 1

    sets = {tuple(recorded(i) for i in a.images) for a in whole}
    numbers = next(iter(sets))
    if len(sets) > 1 or None in numbers or list(numbers) != sorted(set(numbers)):
        return None
    return numbers if count >= len(numbers) or numbers[0] == 1 else None


def fitted(a: Acquisition, whole: Sequence[Acquisition], labels: tuple[int, ...], study_id: str) -> Acquisition:
    """A slice with its phases numbered as those of the whole ones."""
    images, more = a.images, len(a.images) - len(labels)
    if more >= len(labels) or (more > 0 and a.times_ms is None):
        log.warning("study %s: slice %s: %d frames of a %d-phase cycle, the last trial is kept", study_id, a.name,
                    len(images), len(labels))
        latest = sorted(images, key=lambda i: i.order)[-len(labels):]
        images, more = tuple(i for i in images if i in latest), 0
    if not more:
        return dataclasses.replace(a, images=images, numbers=labels)
    numbers = by_time(a, whole, labels) or tuple(
        i.number if i.number in labels else 0 for i in images)         # 0: of no phase
    lost = [n for n in labels if n not in numbers]
    log.warning("study %s: slice %s has %d images of %d phases%s", study_id, a.name, len(images), len(labels),
                f", none of phase {', '.join(map(str, lost[:5]))}{' …' if len(lost) > 5 else ''}" if lost else "")
    return dataclasses.replace(a, numbers=numbers)


def by_time(a: Acquisition, whole: Sequence[Acquisition], labels: tuple[int, ...]) -> tuple[int, ...] | None:
    """The phase next to each image in time, 0 where two are as near or none is; None where times are not known."""
    times = [w.times_ms for w in whole]
    if a.times_ms is None or any(t is None for t in times) or len(labels) < 2:
        return None
    usual = np.median(np.array(times), axis=0)
    step = float(np.median(np.diff(usual)))
    apart = np.abs(a.times_ms[:, None] - usual[None])
    nearest = apart.argmin(axis=1)
    return tuple(labels[k] if apart[i, k] <= NEAR * step and i == int(apart[:, k].argmin()) else 0
                 for i, k in enumerate(nearest))


def nearer_the_r_wave(whole: Sequence[Acquisition]) -> tuple[int, int]:
    """(ED, ES) of slices with two phases each: ED is the one nearer to an R wave, before or after it."""
    first, last = whole[0].numbers
    times = [a.times_ms for a in whole if a.times_ms is not None]
    if not times:
        return first, last
    a_ms, b_ms = np.median(np.array(times), axis=0)
    cycles = [i.cycle_ms for a in whole for i in a.images if i.cycle_ms]
    counts = [i.phases for a in whole for i in a.images if i.phases]
    if cycles:
        cycle_ms = float(np.median(cycles))
    elif counts and last > first:                        # the time between two phases, times their number
        cycle_ms = (b_ms - a_ms) / (last - first) * max(counts)
    else:
        return first, last
    away = [min(t % cycle_ms, -t % cycle_ms) for t in (a_ms, b_ms)]
    return (first, last) if away[0] <= away[1] else (last, first)
