"""Contours and a SFERA together: one estimate of each volume, and what their disagreement says.

The "hybrid approach" that the paper's discussion asks for, and its "verification step for a segmentation network".
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cardiojax.errors import RunError
from cardiojax.files import write_arrays
from cardiojax.models.contours import ContoursModel
from cardiojax.models.curve import Curve
from cardiojax.models.measuring import MeasuringModel
from cardiojax.models.prediction import Prediction, difference_std, ef_with_std, p_below
from cardiojax.models.saved import flatten, opened
from cardiojax.models.sfera import SferaModel
from cardiojax.study import Cine, Study

DISAGREE = 3.0             # a study is referred where both EFs differ by so many of the usual differences


class Blend(NamedTuple):
    """How both are put together, fitted on studies that neither was trained on (`train.hybrid`).

    weight (2,): the contours' share in EDV and ESV, the rest is SFERA's. factor (3,): of the deviations of EDV, ESV and
    EF. residual_corr (): of the errors of EDV and ESV. usual_difference_percent (): of both EFs, root mean square.
    """

    weight: np.ndarray
    factor: np.ndarray
    residual_corr: np.ndarray
    usual_difference_percent: np.ndarray


def blended(contours: Float[np.ndarray, "n 4"], sfera: Float[np.ndarray, "n 4"], blend: Blend
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of EDV, ESV and their deviations of each model → means (N, 2), deviations (N, 2), EF (N,) and its (N,).

    Both err together more often than not, so that their deviations are averaged, as if they were one.
    """
    weight = np.asarray(blend.weight, np.float64)
    mean = weight * contours[:, :2] + (1 - weight) * sfera[:, :2]
    std = (weight * contours[:, 2:] + (1 - weight) * sfera[:, 2:]) * np.asarray(blend.factor[:2], np.float64)
    ef, ef_std = ef_with_std(jnp.asarray(mean), jnp.asarray(std), jnp.asarray(blend.residual_corr))
    return mean, std, np.asarray(ef, np.float64), np.asarray(ef_std, np.float64) * float(blend.factor[2])


def volumes_and_stds(predictions: Sequence[Prediction]) -> Float[np.ndarray, "n 4"]:
    """Rows of EDV, ESV and their deviations (ml)."""
    return np.array([[p.edv_ml, p.esv_ml, p.edv_std_ml, p.esv_std_ml] for p in predictions])


class HybridModel(MeasuringModel):
    """A contours model and a SFERA as one. Masks, phases and curves are the contours'. See `cardiojax.load`."""

    sees_masks = True

    def __init__(self, contours: ContoursModel, sfera: SferaModel, blend: Blend, path: Path | None = None,
                 settings: dict[str, Any] | None = None):
        self.contours, self.sfera, self.blend, self.path, self.settings = contours, sfera, blend, path, settings or {}
        self.mean_predictor = contours.mean_predictor

    @classmethod
    def load(cls, path: str | Path) -> "HybridModel":
        """Open a run folder of `cardiojax combine`. Raises RunError where it is none."""
        return cls.from_arrays(*opened(path, "hybrid"))

    @classmethod
    def from_arrays(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> "HybridModel":
        """Of a run's config.json and the arrays of its model.npz. Raises RunError where they do not fit."""
        def part(name):
            return {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}

        try:
            blend = Blend(*(part("blend")[field] for field in Blend._fields))
        except KeyError as error:
            raise RunError(f"the model of {path} lacks blend/{error.args[0]}") from None
        return cls(ContoursModel.from_arrays(settings["contours"], part("contours"), path),
                   SferaModel.from_arrays(settings["sfera"], part("sfera"), path), blend, path, settings)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of its arrays by the names that model.npz has: both models are in it."""
        return flatten({"contours": self.contours.arrays(), "sfera": self.sfera.arrays(), "blend": self.blend})

    def save(self, file: Path):
        """Write model.npz atomically."""
        write_arrays(file, self.arrays())

    def on(self, device: Any) -> "HybridModel":
        """The same model with its arrays on `device`, a jax.Device; what blends them stays on the host."""
        return HybridModel(self.contours.on(device), self.sfera.on(device), self.blend, self.path, self.settings)

    def predictions(self, studies: Sequence[Study], fill_to: int = 0, slices: int = 0) -> Iterator[Prediction]:
        """Predictions of one batch of prepared studies."""
        both = [list(m.predictions(studies, fill_to, slices)) for m in (self.contours, self.sfera)]
        mean, std, ef, ef_std = blended(*map(volumes_and_stds, both), self.blend)
        for i, (seen, regressed) in enumerate(zip(*both, strict=True)):
            reasons = [r for r in seen.reasons.split("; ") if r]
            reasons += [r for r in regressed.reasons.split("; ") if r and r not in reasons and r.startswith("unlike")]
            apart = abs(seen.ef_percent - regressed.ef_percent)
            if not apart <= DISAGREE * float(self.blend.usual_difference_percent):        # NaN too
                reasons.append(f"contours and SFERA disagree (EF {seen.ef_percent:.0f} and "
                               f"{regressed.ef_percent:.0f} %)")
            yield dataclasses.replace(
                seen, edv_ml=float(mean[i, 0]), esv_ml=float(mean[i, 1]), ef_percent=float(ef[i]),
                edv_std_ml=float(std[i, 0]), esv_std_ml=float(std[i, 1]), ef_std_percent=float(ef_std[i]),
                refer=bool(reasons), reasons="; ".join(reasons), p_ef_below_40=p_below(40.0, ef[i], ef_std[i]),
                p_ef_below_50=p_below(50.0, ef[i], ef_std[i]), model=self.name,
                sv_std_ml=difference_std(std[i], np.asarray(self.blend.residual_corr)))

    def curve(self, cine: Cine) -> Curve:
        """As `ContoursModel.curve`."""
        return self.contours.curve(cine)
