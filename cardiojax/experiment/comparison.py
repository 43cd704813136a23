"""The experiment's answer: each way of pretraining against none, on the same test studies."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cardiojax.data import Split
from cardiojax.evaluate import statistics
from cardiojax.evaluate.metrics import MEASURES, agreement, bootstrap_ci95, with_ef
from cardiojax.models import prediction

BASELINE, LONG, PRETRAINED, WARPED = "RSO", "RSO-long", "RSP", "RSP-warp"
COLUMNS, STDS = prediction.COLUMNS[1:4], prediction.COLUMNS[4:7]      # of EDV, ESV, EF, and of their deviations
MAIN = (BASELINE, "SSO", PRETRAINED, "RSA")
FEWEST = 5                 # studies of low EF, or with masks, that a comparison needs

Predictions = dict[str, Float[np.ndarray, "n 3"]]


def compare(out: Path, datasets: dict) -> dict:
    """`datasets` of an experiment's result → by dataset and experiment: a `summary` over its seeds; `against` RSO, over
    the seeds that both have; its deviations' `calibration`, seed 0. RSP is also compared `against_controls`."""
    found = {}
    for dataset, experiments in datasets.items():
        by_seed = {name: {m["seed"]: predictions(out / m["run"], f"{dataset}:test") for m in seeds}
                   for name, seeds in experiments.items()}
        found[dataset] = {name: {
            "summary": summary(experiments[name], by_seed[name]),
            "calibration": calibrated(predictions(out / experiments[name][0]["run"], f"{dataset}:validation"),
                                      by_seed[name][min(by_seed[name])]),
            **({} if name == BASELINE else {"against": against(by_seed[BASELINE], by_seed[name])}),
            **({"against_controls": {c: against(by_seed[c], by_seed[name]) for c in (WARPED, LONG) if c in by_seed}}
               if name == PRETRAINED else {})} for name in experiments}
    return found


def masks_own(training: Split, test: Split) -> dict[str, dict]:
    """How far the annotators' masks are from the test studies' volumes: what a network that read these frames as the
    annotators do would reach. Their volumes by Simpson's rule `as they are`, and `fitted`: linear in both, by least
    squares on the training studies. The `agreement` of each measure and `n`, the studies with an LV in their masks;
    empty where either split has too few of them."""
    (x, y), (at, truth) = map(volumes_of_masks, (training, test))
    if len(x) < FEWEST or len(at) < FEWEST:
        return {}
    fit, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y)
    said = {"as they are": at, "fitted": np.column_stack([at, np.ones(len(at))]) @ fit}
    return {how: {"n": len(at), **{name: agreement(with_ef(volumes)[:, k], with_ef(truth)[:, k])
                                   for k, name in enumerate(MEASURES)}} for how, volumes in said.items()}


def volumes_of_masks(split: Split) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """EDV and ESV (ml) by the masks and as the dataset gives them, of the studies with an LV in their masks."""
    studies = [s for s in split if s.has_lv]
    by_masks = [s.volumes_from_masks_ml() for s in studies]
    return np.reshape(by_masks, (-1, 2)), np.reshape([s.volumes_ml for s in studies], (-1, 2))


def ordered(experiments: Iterable[str]) -> list[str]:
    """As the paper's Table 1 has them, the ablations below."""
    found = set(experiments)
    return [*(e for e in MAIN if e in found), *sorted(found - set(MAIN))]


def predictions(run: Path, split: str) -> Predictions:
    """Predictions, truths and deviations of EDV, ESV (ml) and EF (percent), from an evaluation's predictions.csv."""
    with (run / "evaluations" / folder_name(split) / "predictions.csv").open(newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["study_id"])
    return {kind: np.array([[float(row[c]) for c in columns] for row in rows]) for kind, columns in (
        ("predicted", COLUMNS), ("truth", [f"true_{c}" for c in COLUMNS]), ("std", STDS))}


def folder_name(split: str) -> str:
    return split.replace("/", "_").replace(":", "_")


def errors(seeds: list[Predictions]) -> Float[np.ndarray, "k n 3"]:
    return np.stack([p["predicted"] - p["truth"] for p in seeds])


def summary(metrics: list[dict], by_seed: dict[int, Predictions]) -> dict:
    """Means over the seeds; the interval of the MAE is of the studies, each by its mean over the seeds."""
    absolute = np.abs(errors(list(by_seed.values()))).mean(axis=0)
    return {"seeds": sorted(by_seed), "n": len(absolute), **{name: {
        **{key: float(np.mean([m[name][key] for m in metrics])) for key in ("rmse", "sd", "mae", "r")},
        "mae_ci95": bootstrap_ci95(absolute[np.isfinite(absolute[:, k]), k]),
        "rmse_of_seeds": [m[name]["rmse"] for m in metrics]} for k, name in enumerate(MEASURES)}}


def against(baseline: dict[int, Predictions], other: dict[int, Predictions]) -> dict:
    """`statistics.compared` and the verdict for each measure, and for EF on the studies of low EF."""
    shared = sorted(set(baseline) & set(other))
    before, after = (errors([by[s] for s in shared]) for by in (baseline, other))
    result = {"seeds": shared, **{name: decided(before[:, :, k], after[:, :, k]) for k, name in enumerate(MEASURES)}}
    low = other[shared[0]]["truth"][:, 2] < statistics.LOW_EF
    if low.sum() >= FEWEST:
        result["ef_below_40"] = {**decided(before[:, low, 2], after[:, low, 2]), "n": int(low.sum())}
    return result


def decided(before: Float[np.ndarray, "k n"], after: Float[np.ndarray, "m n"]) -> dict:
    result = statistics.compared(before, after)
    return {**result, "verdict": statistics.verdict(result["rmse_ratio_ci95"])}


def calibrated(validation: Predictions, test: Predictions) -> dict:
    """Coverage on the test studies before and after a factor fitted on the validation studies."""
    result = {}
    for k, name in enumerate(MEASURES):
        (before, before_std), (error, std) = (
            tuple(a[np.isfinite(p["predicted"][:, k]), k] for a in (p["predicted"] - p["truth"], p["std"]))
            for p in (validation, test))
        factor = statistics.recalibration(before, before_std)
        result[name] = {"factor": factor, "coverage": statistics.coverage(error, std),
                        "coverage_recalibrated": statistics.coverage(error, factor * std)}
        if name != "ef":
            result[name]["crps"] = statistics.crps(test["predicted"][:, k], factor * test["std"][:, k],
                                                   test["truth"][:, k])
    return result
