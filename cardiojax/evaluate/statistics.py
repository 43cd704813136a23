"""Statistics beyond agreement: two ways of training compared, calibration, EF classes, subgroups."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import stats
from sklearn.metrics import confusion_matrix

from cardiojax.evaluate.metrics import BATCH, BOOTSTRAPS

EF_LIMITS = (40.0, 50.0, 55.0)                # EF classes: ≤ 40, ≤ 50, ≤ 55, above (percent)
LEVELS = (0.5, 0.8, 0.95)                     # of the intervals whose coverage is counted
LOW_EF = 40.0                                 # percent: below it the paper counts its rare cases
CRPS_ML = 600                                 # the challenge scores the distribution at 0 … 599 ml


def compared(before: Float[np.ndarray, "k n"], after: Float[np.ndarray, "m n"],
             folds: Integer[np.ndarray, " n"] | None = None) -> dict:
    """Errors of two ways of training on the same studies: a row for each seed, a column for each study.

    The ratio of their RMSE over all seeds, after / before, with a 95 % interval (`ratio_ci95`); Kruskal–Wallis (the
    paper's) and Wilcoxon's signed-rank test (the errors are paired) on the studies' absolute errors, means over the
    seeds. Studies with an error that is not finite are left out; all is NaN where fewer than two remain.

    folds: of each study, where each fold was measured by networks of its own, a single row: the interval is then
    `ratio_ci95_of_folds`; the tests take the studies for independent.
    """
    defined = np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
    before, after = before[:, defined], after[:, defined]
    if before.shape[1] < 2:
        nan = float("nan")
        return {"rmse_ratio": nan, "rmse_ratio_ci95": [nan, nan], "kruskal_p": nan, "wilcoxon_p": nan}
    absolute = [np.abs(e).mean(axis=0) for e in (before, after)]
    return {"rmse_ratio": float(np.sqrt((after**2).mean() / (before**2).mean())),
            "rmse_ratio_ci95": ratio_ci95(before, after) if folds is None else ratio_ci95_of_folds(
                before[0], after[0], folds[defined]),
            "kruskal_p": float(stats.kruskal(*absolute).pvalue),
            "wilcoxon_p": float(stats.wilcoxon(*absolute).pvalue)}  # pyright: ignore[reportAttributeAccessIssue]


def ratio_ci95(before: Float[np.ndarray, "k n"], after: Float[np.ndarray, "m n"]) -> list[float]:
    """95 % interval of the ratio of RMSE, by a hierarchical percentile bootstrap (2,000 resamples).

    Each resample draws studies, and seeds of either side, with replacement and independently of one another. The same
    studies are drawn for both sides, so that the errors stay paired by study. One seed has no spread to draw from: the
    interval is then over the studies alone.
    """
    squares = before**2, after**2

    def ratio(studies, *seeds, axis):          # indices, a row for each resample
        means = [s[rows[:, :, None], studies[:, None, :]].mean(axis=(1, 2)) for s, rows in zip(
            squares, seeds, strict=True)]
        return np.sqrt(means[1] / means[0])

    # SciPy wants two of each or more: a single seed stands twice, which leaves every mean as it is
    seeds = [np.resize(np.arange(len(s)), max(len(s), 2)) for s in squares]
    found = stats.bootstrap((np.arange(before.shape[1]), *seeds), ratio, n_resamples=BOOTSTRAPS, vectorized=True,
                            batch=BATCH, method="percentile", rng=0)
    return [float(end) for end in found.confidence_interval]


def ratio_ci95_of_folds(before: Float[np.ndarray, " n"], after: Float[np.ndarray, " n"],
                        folds: Integer[np.ndarray, " n"]) -> list[float]:
    """95 % interval of the ratio of RMSE over cross-validation, by a hierarchical percentile bootstrap (2,000
    resamples): each draws folds with replacement, and of each of them its studies. What the studies of a fold share,
    the networks that measured them, is so counted once. With few folds it is still too narrow."""
    rng, members = np.random.default_rng(0), [np.flatnonzero(folds == fold) for fold in np.unique(folds)]

    def ratio() -> float:
        drawn = np.concatenate([rng.choice(members[i], len(members[i])) for i in rng.integers(
            len(members), size=len(members))])
        return float(np.sqrt((after[drawn]**2).mean() / (before[drawn]**2).mean()))

    return np.quantile([ratio() for _ in range(BOOTSTRAPS)], (0.025, 0.975)).tolist()


def verdict(ratio_ci95: Sequence[float]) -> str:
    """better, worse or not decided: whether the interval of the ratio of RMSE lies on one side of 1."""
    low, high = ratio_ci95
    return "better" if high < 1 else "worse" if low > 1 else "not decided"


def crps(mean_ml: Float[np.ndarray, " n"], std_ml: Float[np.ndarray, " n"], truth_ml: Float[np.ndarray, " n"]) -> float:
    """The challenge's score (second annual Data Science Bowl): mean over 0 … 599 ml of (P(v) − [v ≥ V])², normal P."""
    v = np.arange(CRPS_ML)
    predicted = stats.norm.cdf(v, mean_ml[:, None], np.maximum(std_ml, 1e-6)[:, None])
    return float(((predicted - (v >= truth_ml[:, None]))**2).mean())


def coverage(errors: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]) -> dict[str, float]:
    """The share of the studies within the central 50, 80 and 95 % intervals of a normal distribution."""
    return {f"{level:.0%}": float((np.abs(errors) <= stats.norm.ppf((1 + level) / 2) * std).mean()) for level in LEVELS}


def ef_classes(predicted: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> dict:
    """Counts by EF class, rows the truth, columns the prediction, and the share of equal classes."""
    defined = np.isfinite(predicted)
    classes = [np.searchsorted(EF_LIMITS, ef[defined], side="left") for ef in (truth, predicted)]
    counts = confusion_matrix(*classes, labels=range(len(EF_LIMITS) + 1))
    return {"limits": list(EF_LIMITS), "counts": counts.tolist(),
            "accuracy": float(np.trace(counts) / max(counts.sum(), 1))}


def subgroups(ef_percent: Float[np.ndarray, " n"], n_slices: Integer[np.ndarray, " n"],
              slice_spacing_mm: Float[np.ndarray, " n"]) -> dict[str, Bool[np.ndarray, " n"]]:
    """Which studies are in which subgroup, by their true EF, their slices and the distance between them."""
    return {"EF < 40 %": ef_percent < LOW_EF, "EF 40 to 70 %": (ef_percent >= LOW_EF) & (ef_percent <= 70),
            "EF > 70 %": ef_percent > 70, "up to 9 slices": n_slices <= 9, "10 slices and more": n_slices > 9,
            "spacing up to 8 mm": slice_spacing_mm <= 8, "spacing > 8 mm": slice_spacing_mm > 8}
