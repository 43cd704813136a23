"""What every model that measures studies does alike: one study from anywhere, many in batches."""

import abc
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cardiojax.errors import InputError
from cardiojax.models.curve import Curve, found_phases
from cardiojax.models.one_file import ENDING
from cardiojax.models.prediction import Prediction
from cardiojax.ops import devices
from cardiojax.preparation import is_prepared, prepare
from cardiojax.preparation.batch import padded_slices
from cardiojax.study import Cine, Study


class MeasuringModel(abc.ABC):
    """A trained model of studies → `Prediction`.

    mean_predictor: mean EDV, ESV (ml) and EF (percent) of the training studies; path, settings: the run's.
    """

    mean_predictor: Float[np.ndarray, "3"]
    path: Path | None
    settings: dict[str, Any]
    sees_masks = False         # whether predictions bring a study with masks, and `predict` finds ED and ES of a `Cine`

    @property
    def name(self) -> str:
        """Of the run or file, for tables."""
        return "" if self.path is None else Path(self.path).absolute().name.removesuffix(ENDING)

    @abc.abstractmethod
    def on(self, device: Any) -> "MeasuringModel":
        """The same model with its arrays on `device`, a jax.Device."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """All of its arrays by the names that model.npz has."""

    @functools.cached_property
    def replicas(self) -> list["MeasuringModel"]:
        """The same model on each of this process's accelerators; where there are not several, this one."""
        return [self.on(device) for device in devices.accelerators()] or [self]

    @abc.abstractmethod
    def predictions(self, studies: Sequence[Study], fill_to: int = 0, slices: int = 0) -> Iterator[Prediction]:
        """Predictions of one batch of prepared studies, padded to so many studies and slices."""

    def curve(self, cine: Cine) -> Curve:
        """The volumes of every phase, of a model that `sees_masks`."""
        raise InputError(f"{self.path} does not see volumes over the cycle; contours do")

    def predict(self, study: str | Path | Study | Cine, centre: str = "motion") -> Prediction:
        """Volumes of one study: a path that a reader knows, a `Study` (as read, or prepared), or a `Cine`, whose ED and
        ES are found by its `curve`.

        centre: what a study as read is cropped round (`preparation.prepare`); by default what the builders' "full" is.
        """
        if not isinstance(study, Study | Cine):
            from cardiojax.readers import read_cine, read_study  # late: a study at hand needs no DICOM library
            study = read_cine(Path(study)) if self.sees_masks else read_study(Path(study))
        if isinstance(study, Study):
            return next(self.predictions([study if is_prepared(study) else prepare(study, centre)]))
        curve = self.curve(study)
        found = self.predict(study.study(*found_phases(curve.lv_ml)), centre)
        ejection, filling = curve.rates_ml_per_s() or (None, None)
        return dataclasses.replace(found, curve=curve, peak_ejection_ml_per_s=ejection, peak_filling_ml_per_s=filling)

    def predict_many(self, studies: Sequence[Study], batch: int = 8, slices: int = 0
                     ) -> Iterator[tuple[Study, Prediction]]:
        """Every prepared study of a sequence (a list, a `data.Split`) with its prediction, in order. Batches go to all
        accelerators of this process by turns; the numbers are those of one.

        slices: to pad all of them to (`data.max_slices`); by default found in a pass over them.
        """
        if not slices and len(studies):
            slices = padded_slices(map(len, studies))

        def measured(which: int, start: int) -> list[tuple[Study, Prediction]]:
            part = [studies[i] for i in range(start, min(start + batch, len(studies)))]
            found = self.replicas[which].predictions(part, fill_to=batch, slices=slices)
            return list(zip(part, found, strict=True))

        for part in devices.by_turns(measured, range(0, len(studies), batch), len(self.replicas)):
            yield from part
