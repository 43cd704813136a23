"""`Study`: the value that readers make, builders store and networks measure."""

import dataclasses

import numpy as np

from cardiojax import units
from cardiojax.errors import StudyError
from cardiojax.grid import Grid

ED, ES = 0, 1
GAP = 1.5          # slice spacings: neighbours further apart than this miss a slice between them


@dataclasses.dataclass(frozen=True)
class Patient:
    """What indices and the cardiac output need to know of a person; None where it is not known."""

    height_cm: float | None = None
    weight_kg: float | None = None
    heart_rate_bpm: float | None = None

    @property
    def bsa_m2(self) -> float | None:
        """Body surface area: √(height · weight / 3600) (Mosteller 1987)."""
        if not self.height_cm or not self.weight_kg:
            return None
        return (self.height_cm * self.weight_kg / 3600) ** 0.5


@dataclasses.dataclass(frozen=True)
class Study:
    """One short-axis study at end-diastole and end-systole.

    frames: (S, H, W, 2), slices base → apex, ED then ES in the last axis. As read: any real values; as
        prepared and stored: uint8, 0–255 for [0, 1].
    masks: (S, H, W, 2) uint8 labels (`units.LABELS`), or None where there are none.
    slice_spacing_mm: distance between the centres of neighbouring slices.
    pixel_spacing_mm: (row, column).
    volumes_ml: (EDV, ESV), either NaN where unknown, or None where neither is known.
    positions_mm: (S,) of the slices along their normal, or None where they are `slice_spacing_mm` apart throughout.
    frame_numbers: (ED, ES), 1-based phases of the cine that the frames are, or None where there was no cine.
    notes: what its reader found that a person should look at; patient: as far as the files say.
    grid: where its pixels lie in the files and the patient, None of a study that no reader made.
    source: the dataset it comes from; ancestor: `study_id` of the real patient a synthetic one descends from.

    Raises StudyError where the parts do not fit together.
    """

    study_id: str
    frames: np.ndarray
    slice_spacing_mm: float
    pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)
    masks: np.ndarray | None = None
    volumes_ml: np.ndarray | None = None
    source: str = ""
    ancestor: str = ""
    positions_mm: np.ndarray | None = None
    frame_numbers: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    patient: Patient = Patient()
    grid: Grid | None = None

    def __post_init__(self):
        frames, masks = self.frames, self.masks
        self._require(frames.ndim == 4 and frames.shape[-1] == 2,
                      f"frames must be (slices, height, width, 2), not {frames.shape}")
        self._require(frames.shape[0] > 0, "no slice has both an ED and an ES frame")
        self._require(min(frames.shape[1:3]) > 1, f"frames of {frames.shape[1]}×{frames.shape[2]} pixels")
        bad = int((~np.isfinite(frames)).sum()) if frames.dtype.kind == "f" else 0
        self._require(not bad, f"{bad} pixels are NaN or infinite")
        for what, value in (("slice spacing", self.slice_spacing_mm), ("row spacing", self.pixel_spacing_mm[0]),
                            ("column spacing", self.pixel_spacing_mm[1])):
            self._require(np.isfinite(value) and value > 0, f"{what} is {value:g} mm, must be positive")
        if masks is not None:
            self._require(masks.shape == frames.shape, f"masks {masks.shape} do not match frames {frames.shape}")
            known = masks.dtype.kind == "u" and masks.max() < len(units.LABELS)      # quick, and nearly always true
            unknown = [] if known else sorted(set(np.unique(masks).tolist()) - set(range(len(units.LABELS))))
            self._require(not unknown, f"unknown labels {unknown} in the masks (known: 0–{len(units.LABELS) - 1})")
        if self.positions_mm is not None:
            self._require(self.positions_mm.shape == frames.shape[:1],
                          f"positions {self.positions_mm.shape} of {frames.shape[0]} slices")
        if self.volumes_ml is not None:
            edv, esv = self.volumes_ml
            self._require(not (edv <= 0 or esv < 0), f"volumes EDV {edv:g}, ESV {esv:g} ml are not positive")
            self._require(not esv > edv, f"ESV {esv:g} ml is larger than EDV {edv:g} ml")

    def _require(self, condition: bool, message: str):
        if not condition:
            raise StudyError(f"study {self.study_id}: {message}")

    def __len__(self) -> int:
        return self.frames.shape[0]

    def replace(self, **changes) -> "Study":
        return dataclasses.replace(self, **changes)

    @property
    def consecutive_slices(self) -> int:
        """Slices in the longest run of neighbours without a gap: a step of more than 1.5 slice spacings is one."""
        if self.positions_mm is None:
            return len(self)
        gaps = np.flatnonzero(np.abs(np.diff(self.positions_mm)) > GAP * self.slice_spacing_mm)
        return int(np.diff([-1, *gaps, len(self) - 1]).max())

    @property
    def has_lv(self) -> bool:
        """Whether there are masks, and an LV in them."""
        return self.masks is not None and bool((self.masks == units.LV).any())

    def volumes_from_masks_ml(self) -> np.ndarray:
        """(EDV, ESV) in ml by Simpson on the masks. Raises StudyError where there are none."""
        self._require(self.masks is not None, "has no masks to measure")
        return units.simpson_ml(units.lv_area_mm2(self.masks, self.pixel_spacing_mm), self.slice_spacing_mm)


@dataclasses.dataclass(frozen=True)
class Cine:
    """Every phase of a short-axis stack, where nothing says which of them are ED and ES.

    frames: (S, H, W, T), slices base → apex, phases in order of time; the other fields as in `Study`.
    phase_ms: (T,) of the phases after the R wave, or None where it is not known.
    numbers: the T phases' 1-based numbers, where they are a part of a cycle; 1, 2, 3 … by default.
    """

    study_id: str
    frames: np.ndarray
    slice_spacing_mm: float
    pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)
    positions_mm: np.ndarray | None = None
    phase_ms: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    numbers: tuple[int, ...] | None = None
    patient: Patient = Patient()
    grid: Grid | None = None

    def study(self, ed: int, es: int) -> Study:
        """Two of its phases, counted from 1. Raises StudyError where there is no such phase."""
        phases = self.frames.shape[-1]
        if not (1 <= ed <= phases and 1 <= es <= phases):
            raise StudyError(f"study {self.study_id}: there is no phase {max(ed, es)}, the cine has {phases}")
        numbers = self.numbers or range(1, phases + 1)
        return Study(study_id=self.study_id, frames=self.frames[..., [ed - 1, es - 1]],
                     slice_spacing_mm=self.slice_spacing_mm, pixel_spacing_mm=self.pixel_spacing_mm,
                     positions_mm=self.positions_mm, frame_numbers=(numbers[ed - 1], numbers[es - 1]),
                     notes=self.notes, patient=self.patient,
                     grid=None if self.grid is None else self.grid.phases([ed - 1, es - 1]))
