"""Deviations that explain the errors, from studies that a model was not trained on."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cardiojax.models.prediction import ef_with_std

MIN_STUDIES = 5                # to fit a calibration on, or a blend


def fit_deviations(mean_ml: Float[np.ndarray, "n 2"], std_ml: Float[np.ndarray, "n 2"], truth: Float[np.ndarray, "n 3"]
                   ) -> tuple[Float[np.ndarray, "3"], np.float32]:
    """What the deviations of EDV and ESV, and then EF (by `ef_with_std`), must be multiplied by to explain the errors;
    and the correlation of the errors of EDV and ESV. truth: EDV, ESV (ml), EF (percent)."""
    errors = mean_ml - truth[:, :2]
    factor = np.array([recalibration(errors[:, k], std_ml[:, k]) for k in (0, 1)])
    correlation = np.float32(np.clip((errors / (std_ml * factor)).prod(axis=1).mean(), -0.95, 0.95))
    ef, ef_std = (np.asarray(a, np.float64) for a in ef_with_std(
        jnp.asarray(mean_ml), jnp.asarray(std_ml * factor), jnp.asarray(correlation)))
    return np.array([*factor, recalibration(ef - truth[:, 2], ef_std)], np.float32), correlation


def recalibration(errors: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]) -> float:
    """The factor by which deviations must be multiplied to explain the errors: √ mean (error / std)²."""
    return float(np.sqrt(np.mean((errors / std)**2)))
