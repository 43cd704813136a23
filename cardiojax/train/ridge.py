"""Bayesian ridge on SFERA's features, fitted by scikit-learn (paper, Methods: "as a final step")."""

import numpy as np
from jaxtyping import Array, Float
from sklearn.linear_model import BayesianRidge

from cardiojax.models.ridge import Ridge


def fit(features: Float[np.ndarray, "n f"], targets: Float[Array | np.ndarray, "n 2"]) -> Ridge:
    """Fit EDV and ESV (columns of `targets`) on features, in scikit-learn's float64. Needs at least two studies."""
    features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    models = [BayesianRidge().fit(features, targets[:, k]) for k in range(2)]
    residuals = np.stack([targets[:, k] - m.predict(features) for k, m in enumerate(models)])
    std = residuals.std(axis=1)
    corr = np.corrcoef(residuals)[0, 1] if (std > 1e-9).all() else 0.0
    return Ridge(*(np.asarray(a, np.float32) for a in (
        np.stack([m.coef_ for m in models]), np.array([m.intercept_ for m in models]), models[0].X_offset_,
        np.stack([m.sigma_ for m in models]), np.array([1 / m.alpha_ for m in models]), corr)))
