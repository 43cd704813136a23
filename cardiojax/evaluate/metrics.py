"""Agreement of predicted volumes with the truth: per-study results are gathered, each mean is taken once at the end."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from cardiojax.units import ef_percent

MEASURES = ("edv", "esv", "ef")
BOOTSTRAPS, BATCH = 2000, 250            # resamples; so many at a time, for memory


def with_ef(volumes_ml: np.ndarray) -> np.ndarray:
    """(N, 2) EDV, ESV in ml → (N, 3) with EF in percent."""
    return np.column_stack([volumes_ml, ef_percent(volumes_ml[:, 0], volumes_ml[:, 1])])


@dataclasses.dataclass
class Accumulator:
    """Gathers (EDV, ESV) in ml; `mean_predictor` is the training studies' mean (EDV ml, ESV ml, EF %)."""

    mean_predictor: np.ndarray
    predicted: list[np.ndarray] = dataclasses.field(default_factory=list)
    truth: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, predicted_ml: np.ndarray, truth_ml: np.ndarray):
        """Predicted and true volumes, (B, 2) each, real studies only."""
        self.predicted.append(np.asarray(predicted_ml, np.float64))
        self.truth.append(np.asarray(truth_ml, np.float64))

    def result(self) -> dict[str, dict]:
        """`edv`, `esv` (ml), `ef` (points) → `agreement`, with the mean predictor's RMSE beside."""
        predicted, truth = with_ef(np.concatenate(self.predicted)), with_ef(np.concatenate(self.truth))
        return {name: {**agreement(predicted[:, k], truth[:, k]),
                       "rmse_mean_predictor": rmse(np.full(len(truth), self.mean_predictor[k]), truth[:, k])}
                for k, name in enumerate(MEASURES)}

    def flat(self) -> dict[str, float]:
        """The few figures to watch while training."""
        return {f"{name}_{key}": values[key] for name, values in self.result().items()
                for key in ("rmse", "r", "rmse_mean_predictor")}


def rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - truth) ** 2))) if len(truth) else float("nan")


def agreement(predicted: np.ndarray, truth: np.ndarray) -> dict:
    """RMSE, SD of the errors, MAE with bootstrapped 95 % CI, Pearson r with p, ICC(2,1), Bland–Altman bias and limits
    (± 1.96 SD).

    Predictions that are not finite (the EF of a predicted EDV ≤ 0) are left out and counted as `undefined`. What the
    rest cannot have (SD, r of one study) is NaN.
    """
    from scipy import stats  # some seconds, which no training waits for before its first step

    defined = np.isfinite(predicted)
    predicted, truth = predicted[defined], truth[defined]
    error = predicted - truth
    several = len(error) > 1
    sd = float(error.std(ddof=1)) if several else float("nan")
    varied = several and predicted.std() > 0 and truth.std() > 0
    r, r_p = stats.pearsonr(predicted, truth) if varied else (float("nan"), float("nan"))
    bias = float(error.mean()) if len(error) else float("nan")
    return {
        "rmse": rmse(predicted, truth),
        "sd": sd,
        "mae": float(np.abs(error).mean()) if len(error) else float("nan"),
        "mae_ci95": bootstrap_ci95(np.abs(error)),
        "r": float(r),
        "r_p": float(r_p),
        "icc": icc(predicted, truth) if varied else float("nan"),
        "bias": bias,
        "loa": [bias - 1.96 * sd, bias + 1.96 * sd],
        "undefined": int((~defined).sum()),
    }


def icc(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """ICC(2,1), two-way random effects, absolute agreement, single rater (Shrout and Fleiss 1979)."""
    ratings = np.stack([a, b], axis=1)
    n, k = ratings.shape
    mean = ratings.mean()
    rows = k * ((ratings.mean(1) - mean)**2).sum() / (n - 1)
    columns = n * ((ratings.mean(0) - mean)**2).sum() / (k - 1)
    total = ((ratings - mean)**2).sum()
    error = (total - rows * (n - 1) - columns * (k - 1)) / ((n - 1) * (k - 1))
    return float((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n))


def bootstrap_ci95(values: np.ndarray) -> list[float]:
    """Of the mean of the values (N,), by a percentile bootstrap: 2,000 resamples, a fixed seed. NaN of no values."""
    if len(values) < 2:                        # SciPy wants two or more
        return [float(np.mean(values)) if len(values) else float("nan")] * 2
    from scipy import stats

    found = stats.bootstrap((values,), np.mean, n_resamples=BOOTSTRAPS, vectorized=True, batch=BATCH,
                            method="percentile", rng=0)
    return [float(end) for end in found.confidence_interval]


def ssim(a: np.ndarray, b: np.ndarray, data_range: float = 2.0) -> float:
    """Structural similarity of two (H, W) images (Wang et al. 2004): Gaussian window of 11 pixels, σ 1.5, no border."""
    def local(x):
        return ndimage.gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = local(a), local(b)
    var_a, var_b, cov = local(a * a) - mean_a**2, local(b * b) - mean_b**2, local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range)**2, (0.03 * data_range)**2
    return float(((2 * mean_a * mean_b + c1) * (2 * cov + c2)
                  / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())
