"""Which series of a study are the short-axis cine."""

import collections
import dataclasses
import functools
import logging
import re
from collections.abc import Sequence

import numpy as np

from cardiojax.errors import StudyError
from cardiojax.readers.dicom_header import Image
from cardiojax.readers.geometry import clusters

log = logging.getLogger("cardiojax")

PARALLEL = float(np.cos(np.deg2rad(10.0)))
# parallel to the short axis too, and with several images a slice, but no cine
NO_CINE = re.compile(r"lge|delay|psir|(?<![a-z0-9])(de|t1|t2\*?)(?![a-z0-9])|moll|shmol|map|perf|tag|flow|venc|"
                     r"scout|locali[sz]|haste|inlinevf", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Series:
    """The images of one series of one folder."""

    images: tuple[Image, ...]

    @property
    def name(self) -> str:
        return f"{self.images[0].series} {self.images[0].description!r}"

    @property
    def normal(self) -> np.ndarray:
        return self.images[0].plane.normal

    @functools.cached_property
    def positions_mm(self) -> list[float]:
        """Of its slices, along the normal."""
        positions = np.array([float(i.plane.origin @ self.normal) for i in self.images])
        return [float(positions[which].mean()) for which in clusters(positions)]

    @property
    def phases(self) -> int:
        return len(self.images) // len(self.positions_mm)

    def is_parallel(self, other: "Series") -> bool:
        return abs(float(self.normal @ other.normal)) > PARALLEL


def short_axis(images: list[Image], study_id: str, wanted: str | None = None) -> list[Image]:
    """The images of the short-axis cine, or of the series that `wanted` names (its number, or a part of its
    description or folder). The log says which and why.

    A long-axis view has one slice, so the short axis is the plane with the most parallel slices, among the series
    with two images a slice or more whose name is not another technique's. Series with less than half of the phases
    that the others have are left out.
    """
    grouped = collections.defaultdict(list)
    for image in images:
        grouped[image.path.parent, image.series, image.description].append(image)
    every = [Series(tuple(members)) for members in grouped.values()]
    if len(uids := {i.study_uid for i in images}) > 1:
        raise StudyError(f"study {study_id}: the folder holds {len(uids)} studies (StudyInstanceUID), not one")
    if len(patients := {i.patient for i in images}) > 1:
        raise StudyError(f"study {study_id}: the folder holds images of {len(patients)} patients (PatientID), not one")
    if wanted is not None:
        chosen = [s for s in every if wanted == str(s.images[0].series) or wanted.lower() in s.name.lower()
                  or wanted.lower() in s.images[0].path.parent.name.lower()]
        if not chosen:
            raise StudyError(f"study {study_id}: no series is named {wanted!r}; there are "
                             + ", ".join(sorted({s.name for s in every})))
        return [i for s in chosen for i in s.images]
    if len(every) == 1:
        return images
    why = {id(s): "by its name" for s in every if NO_CINE.search(s.images[0].description)}
    why |= {id(s): "one image a slice" for s in every if s.phases < 2}
    cine = [s for s in every if id(s) not in why] or every
    stacks = [[s for s in cine if s.is_parallel(reference)] for reference in cine]
    stack = max(stacks, key=slices_of)
    phases = max(s.phases for s in stack)
    chosen = [s for s in stack if 2 * s.phases >= phases]
    why |= {id(s): f"{s.phases} phases of {phases}" for s in stack if s not in chosen}
    left_out = [f"{s.name} ({why.get(id(s), 'another plane')})" for s in every if s not in chosen]
    if left_out:
        log.info("study %s: the short-axis cine is %s (%d slices, %d phases): the most parallel slices; left out: %s",
                 study_id, ", ".join(s.name for s in chosen[:3]) + (" …" if len(chosen) > 3 else ""),
                 slices_of(chosen), phases, ", ".join(left_out))
    return [i for s in chosen for i in s.images]


def slices_of(stack: Sequence[Series]) -> int:
    """Distinct positions of parallel series, along the normal of the first."""
    normal = stack[0].normal
    return len(clusters(np.array([p * float(np.sign(s.normal @ normal)) for s in stack for p in s.positions_mm])))
