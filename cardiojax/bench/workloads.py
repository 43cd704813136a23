"""What is measured, and on which arrays: the same for either side (`ours`, `theirs`)."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from cardiojax import data, phantom
from cardiojax.config import (
    CONTOURS_PRESETS,
    GAUGAN_PRESETS,
    SFERA_PRESETS,
    ContoursConfig,
    GauganConfig,
    SferaConfig,
)
from cardiojax.data import Split, records
from cardiojax.data.frames import FrameBatch, Frames
from cardiojax.preparation.batch import Batch
from cardiojax.train.parallel import Mode, StepOptions

PHANTOMS = 16          # studies that stand for a dataset where none is named
LEAST_FRAMES = 10      # that a phantom has: of five slices
MEASURED = 8           # studies that contours measure at a time


@dataclasses.dataclass(frozen=True)
class Spec:
    """One side of a measurement."""

    what: str                        # train, loop, generate, predict, input
    task: str = "gaugan"             # sfera, contours or gaugan; of predict: contours, else sfera
    preset: str = "small"
    batch: int = 0                   # 0: the preset's; for predict 1 is latency
    impl: str = "cardiojax"          # or torch
    dtype: str = "float32"
    compiled: bool = False           # torch.compile
    devices: int = 1
    data: str = ""                   # NAME:SPLIT; phantom studies by default
    data_dir: str = ""
    parallel: Mode = "jit"           # these seven: of a training step, see train.parallel.StepOptions
    accumulate: int = 1
    remat: bool = False
    spade: Literal["auto", "table", "dense"] = "auto"
    workers: int = 0
    keep_gib: float | None = 0.0
    resident: bool = False
    whole: bool = False              # of generate and predict: the method that people call

    @property
    def name(self) -> str:
        return f"{self.impl} {self.dtype}" + (" compiled" if self.compiled else "")

    @property
    def options(self) -> StepOptions:
        return StepOptions(self.parallel, self.accumulate, self.remat, self.spade, self.workers, self.keep_gib,
                           self.resident)

    @property
    def network(self) -> str:
        if self.what == "predict":
            return "contours" if self.task == "contours" else "sfera"
        return "gaugan" if self.what == "generate" else self.task

    @property
    def config(self) -> SferaConfig | ContoursConfig | GauganConfig:
        return {"sfera": lambda: self.sfera, "contours": lambda: self.contours,
                "gaugan": lambda: self.gaugan}[self.network]()

    @property
    def sfera(self) -> SferaConfig:
        return self._sized(SFERA_PRESETS[self.preset])

    @property
    def contours(self) -> ContoursConfig:
        """Its batch is of frames in training, of studies in prediction."""
        config = self._sized(CONTOURS_PRESETS[self.preset])
        return dataclasses.replace(config, batch=self.batch or MEASURED) if self.what == "predict" else config

    @property
    def gaugan(self) -> GauganConfig:
        """Without a perceptual network: neither side has one."""
        return dataclasses.replace(self._sized(GAUGAN_PRESETS[self.preset]), perceptual="none")

    def _sized(self, config):
        return dataclasses.replace(config, batch=self.batch or config.batch,
                                   net=dataclasses.replace(config.net, dtype=self.dtype))

    @property
    def unit(self) -> str:
        if self.what == "predict":
            return "studies"
        return {"sfera": "studies", "contours": "frames", "gaugan": "images"}[self.network]


@dataclasses.dataclass(frozen=True)
class Workload:
    """`call` does `things` of `unit` and waits for them; `flops` of one call, where they are counted."""

    call: Callable[[], None]
    things: int
    unit: str
    flops: float | None = None


def split_of(spec: Spec) -> Split:
    if spec.data:
        return data.open_split(spec.data, Path(spec.data_dir))
    count = max(PHANTOMS, spec.config.batch // (1 if spec.unit == "studies" else LEAST_FRAMES))
    return data.usable("phantom", [phantom_records()[i % PHANTOMS] for i in range(count)])


@functools.cache
def phantom_records() -> list[dict]:
    """Of PHANTOMS studies; a larger batch holds them more than once."""
    return [records.encode(phantom.prepared_study("dsb_like", i)) for i in range(PHANTOMS)]


def frames_of(frames: Frames, config: GauganConfig) -> FrameBatch:
    """The same batch of frames for either side."""
    which = np.random.default_rng(0).choice(len(frames), config.batch, replace=False)
    return frames.batch(which, config.net.size_px)


def studies_of(split: Split, size_px: int, batch: int) -> Batch:
    """The same batch of studies for either side."""
    return next(data.evaluation_batches(split, size_px=size_px, batch=batch, slices=data.max_slices(split)))
