"""What a reviewer asks beyond RMSE: agreement, tests between two trainings, calibration, EF classes."""

import numpy as np
from jaxtyping import Float
from scipy import stats
from sklearn.metrics import confusion_matrix

from cardiojax.evaluate.metrics import BOOTSTRAPS

EF_LIMITS = (40.0, 50.0, 55.0)                # EF classes: ≤ 40, ≤ 50, ≤ 55, above (percent)
LEVELS = (0.5, 0.8, 0.95)                     # of the intervals whose coverage is counted
CRPS_ML = 600                                 # the challenge scores the distribution at 0 … 599 ml


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


def compared(before: Float[np.ndarray, "k n"], after: Float[np.ndarray, "m n"]) -> dict:
    """Errors of two trainings on the same studies, a row for each seed.

    The ratio of their RMSE over all seeds, after / before, with a 95 % interval by a bootstrap of the studies (2,000
    draws); Kruskal–Wallis (the paper's) and Wilcoxon's signed-rank test (the errors are paired) on the studies'
    absolute errors, means over the seeds.
    """
    squares = [(e**2).mean(axis=0) for e in (before, after)]
    draws = np.random.default_rng(0).integers(before.shape[1], size=(BOOTSTRAPS, before.shape[1]))
    ratios = np.sqrt(squares[1][draws].mean(1) / squares[0][draws].mean(1))
    absolute = [np.abs(e).mean(axis=0) for e in (before, after)]
    return {"rmse_ratio": float(np.sqrt(squares[1].mean() / squares[0].mean())),
            "rmse_ratio_ci95": [float(q) for q in np.quantile(ratios, [0.025, 0.975])],
            "kruskal_p": float(stats.kruskal(*absolute).pvalue),
            "wilcoxon_p": float(stats.wilcoxon(*absolute).pvalue)}


def verdict(ratio_ci95: tuple[float, float]) -> str:
    """helped, harmed or not decided: whether the interval of the ratio of RMSE lies on one side of 1."""
    low, high = ratio_ci95
    return "helped" if high < 1 else "harmed" if low > 1 else "not decided"


def crps(mean_ml: Float[np.ndarray, " n"], std_ml: Float[np.ndarray, " n"], truth_ml: Float[np.ndarray, " n"]) -> float:
    """The challenge's score (second annual Data Science Bowl): mean over 0 … 599 ml of (P(v) − [v ≥ V])², normal P."""
    v = np.arange(CRPS_ML)
    predicted = stats.norm.cdf(v, mean_ml[:, None], np.maximum(std_ml, 1e-6)[:, None])
    return float(((predicted - (v >= truth_ml[:, None]))**2).mean())


def coverage(errors: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]) -> dict[str, float]:
    """The share of the studies within the central 50, 80 and 95 % intervals of a normal distribution."""
    return {f"{level:.0%}": float((np.abs(errors) <= stats.norm.ppf((1 + level) / 2) * std).mean()) for level in LEVELS}


def recalibration(errors: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]) -> float:
    """The factor by which deviations must be multiplied to explain the errors: √ mean (error / std)²."""
    return float(np.sqrt(np.mean((errors / std)**2)))


def ef_classes(predicted: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> dict:
    """Counts by EF class, rows the truth, columns the prediction, and the share of equal classes."""
    classes = [np.searchsorted(EF_LIMITS, ef, side="left") for ef in (truth, predicted)]
    counts = confusion_matrix(*classes, labels=range(len(EF_LIMITS) + 1))
    return {"limits": list(EF_LIMITS), "counts": counts.tolist(), "accuracy": float(np.trace(counts) / counts.sum())}
