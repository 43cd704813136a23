"""Bayesian ridge on SFERA's features: its mean and standard deviation in JAX (`train.ridge` fits it).

Products are of full float32 precision: a GPU's default, TF32, keeps three digits.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float


class Ridge(NamedTuple):
    """Two regressions, EDV and ESV, on the same features (scaled volumes, see `models.sfera.Scaling`).

    coef (2, F), intercept (2,), centre (F,), covariance (2, F, F) of the coefficients, noise_var (2,),
    residual_corr (): correlation of the EDV and ESV residuals on the data of the fit.
    """

    coef: Array
    intercept: Array
    centre: Array
    covariance: Array
    noise_var: Array
    residual_corr: Array

    def predict(self, features: Float[Array | np.ndarray, "n f"]) -> tuple[Float[Array, "n 2"], Float[Array, "n 2"]]:
        """Mean and standard deviation √((x − x̄)ᵀ Σ (x − x̄) + 1/α), as `BayesianRidge.predict(return_std=True)`."""
        mean = jnp.matmul(features, self.coef.T, precision=Precision.HIGHEST) + self.intercept
        return mean, jnp.sqrt(self.coefficient_variance(features) + self.noise_var)

    def coefficient_variance(self, features: Float[Array | np.ndarray, "n f"]) -> Float[Array, "n 2"]:
        """(x − x̄)ᵀ Σ (x − x̄): the variance that comes from not knowing the coefficients. It grows with the distance
        from the studies of the fit."""
        centred = features - self.centre
        return jnp.maximum(jnp.einsum("nf,kfg,ng->nk", centred, self.covariance, centred,
                                      precision=Precision.HIGHEST), 0.0)


class Calibration(NamedTuple):
    """Corrections of a ridge's deviations, from the validation studies.

    factor (3,): what the deviations of EDV, ESV and EF are multiplied by to explain the errors.
    far (): the largest share of `Ridge.coefficient_variance` in the noise among them; a study well above it is unlike
        all of them.
    """

    factor: Array
    far: Array


UNCALIBRATED = Calibration(np.ones(3, np.float32), np.float32(np.inf))    # older runs; one validation study
