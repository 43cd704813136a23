"""The experiment's answer: each way of training against its baseline, on the same test studies.

RSO has the paper's number of updates, RSO-long as many as pretraining and finetuning together. What was pretrained is
compared with RSO-long first, which differs by the synthetic studies alone, and then with RSO (the paper's comparison).
One comparison, `PRIMARY`, is the endpoint that is named beforehand; all others are exploratory.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from cardiojax.data import Split
from cardiojax.evaluate import statistics
from cardiojax.evaluate.metrics import MEASURES, agreement, bootstrap_ci95, with_ef
from cardiojax.models import prediction
from cardiojax.models.ridge import Calibration
from cardiojax.models.sfera import calibration_of
from cardiojax.study import Study

BASELINE, LONG, PRETRAINED, WARPED = "RSO", "RSO-long", "RSP", "RSP-warp"
COLUMNS, STDS = prediction.COLUMNS[1:4], prediction.COLUMNS[4:7]      # of EDV, ESV, EF, and of their deviations
MAIN = (BASELINE, LONG, "SSO", PRETRAINED, "RSA")
FEWEST = 5                 # studies of low EF, or with masks, that a comparison needs
PRIMARY = {"measure": "ef", "statistic": "rmse_ratio", "experiment": PRETRAINED, "baseline": LONG}

Predictions = dict[str, Float[np.ndarray, "_studies 3"]]


def compare(out: Path, datasets: dict) -> dict:
    """`datasets` of an experiment's result → by dataset and experiment: its `updates`; a `summary` over its seeds;
    `against` the main baseline and `against_extra` the other one (`baselines`), over the seeds that both have, with the
    baseline's name; the `calibration` of its deviations, seed 0. RSP also has `against_controls`, by control."""
    found = {}
    for dataset, experiments in datasets.items():
        by_seed = {name: {m["seed"]: predictions(out / m["run"], f"{dataset}:test") for m in seeds}
                   for name, seeds in experiments.items()}
        found[dataset] = {}
        for name, seeds in experiments.items():
            controls = (WARPED,) if name == PRETRAINED else ()
            compared = {b: against(by_seed[b], by_seed[name]) for b in (*baselines(name), *controls)
                        if by_seed[name].keys() & by_seed.get(b, {}).keys()}
            found[dataset][name] = {
                "updates": seeds[0]["updates"], "summary": summary(seeds, by_seed[name]),
                "calibration": calibrated(by_seed[name][seeds[0]["seed"]], calibration_of(out / seeds[0]["run"])),
                **{key: {"baseline": b} | compared[b] for key, b in zip(
                    ("against", "against_extra"), baselines(name), strict=False) if b in compared},
                **({"against_controls": {c: compared[c] for c in controls if c in compared}} if controls else {})}
    return found


def baselines(experiment: str) -> tuple[str, ...]:
    """What an experiment is compared with, the main one first. RSO is the baseline of all and has none."""
    if experiment.startswith(PRETRAINED):
        return LONG, BASELINE
    return () if experiment == BASELINE else (BASELINE,)


def primary_endpoint(first: str, comparisons: dict) -> dict:
    """What was named before: EF's RMSE on the first dataset, RSP over RSO-long; `result` is None until both are there.
    All else that is compared is exploratory."""
    against = comparisons.get(first, {}).get(PRIMARY["experiment"], {}).get("against")
    return {"dataset": first, **PRIMARY, "exploratory": "all other comparisons",
            "result": against and {"seeds": against["seeds"], **against[PRIMARY["measure"]]}}


def masks_own(training: Split | Sequence[Study], test: Split | Sequence[Study]) -> dict[str, dict]:
    """How far the annotators' masks are from the test studies' volumes: by Simpson's rule `as they are`, and `fitted`,
    linear in both volumes by least squares on the training studies. No bound: networks that are trained on the volumes
    may be nearer to them. The `agreement` of each measure and `n`, the studies with an LV in their masks; empty where
    either split has too few of them."""
    (x, y), (at, truth) = map(volumes_of_masks, (training, test))
    if len(x) < FEWEST or len(at) < FEWEST:
        return {}
    fit, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y)
    readings = {"as they are": at, "fitted": np.column_stack([at, np.ones(len(at))]) @ fit}
    return {reading: {"n": len(at), **{name: agreement(with_ef(volumes)[:, k], with_ef(truth)[:, k])
                                       for k, name in enumerate(MEASURES)}}
            for reading, volumes in readings.items()}


def volumes_of_masks(split: Split | Sequence[Study]) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """EDV and ESV (ml) by the masks and as the dataset gives them, of the studies with an LV in their masks."""
    studies = [s for s in split if s.has_lv]
    by_masks = [s.volumes_from_masks_ml() for s in studies]
    return np.reshape(by_masks, (-1, 2)), np.reshape([s.volumes_ml for s in studies], (-1, 2))


def ordered(experiments: Iterable[str]) -> list[str]:
    """In the order of the paper's Table 1, the ablations below."""
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
    """Means over the seeds. `mae_ci95` draws studies alone, each with its mean over the seeds."""
    absolute = np.abs(errors(list(by_seed.values()))).mean(axis=0)
    return {"seeds": sorted(by_seed), "n": len(absolute), **{name: {
        **{key: float(np.mean([m[name][key] for m in metrics])) for key in ("rmse", "sd", "mae", "r")},
        "mae_ci95": bootstrap_ci95(absolute[np.isfinite(absolute[:, k]), k]),
        "rmse_of_seeds": [m[name]["rmse"] for m in metrics]} for k, name in enumerate(MEASURES)}}


def against(baseline: dict[int, Predictions], other: dict[int, Predictions], folds: bool = False) -> dict:
    """`statistics.compared` and the verdict for each measure, and for EF on the studies of low EF. folds: each seed has
    measured a fold of its own, and all of them are one set of studies."""
    shared = sorted(set(baseline) & set(other))
    truths = [other[s]["truth"] for s in shared]
    fold = np.repeat(np.arange(len(shared)), [len(t) for t in truths]) if folds else None
    before, after = (np.concatenate([errors([by[s]]) for s in shared], axis=1 if folds else 0)
                     for by in (baseline, other))
    result = {"seeds": shared, **{name: decided(before[:, :, k], after[:, :, k], fold)
                                  for k, name in enumerate(MEASURES)}}
    low = (np.concatenate(truths) if folds else truths[0])[:, 2] < statistics.LOW_EF
    if low.sum() >= FEWEST:
        result["ef_below_40"] = {**decided(before[:, low, 2], after[:, low, 2], None if fold is None else fold[low]),
                                 "n": int(low.sum())}
    return result


def decided(before: Float[np.ndarray, "k n"], after: Float[np.ndarray, "m n"],
            folds: Integer[np.ndarray, " n"] | None) -> dict:
    result = statistics.compared(before, after, folds)
    return {**result, "verdict": statistics.verdict(result["rmse_ratio_ci95"])}


def calibrated(test: Predictions, calibration: Calibration) -> dict:
    """Coverage on the test studies of the deviations as predicted, which the model has multiplied by the `factor` of
    its validation studies, and of those without it (`_raw`); the volumes' CRPS likewise."""
    result = {}
    for k, name in enumerate(MEASURES):
        defined = np.isfinite(test["predicted"][:, k])
        mean, truth, std = (test[kind][defined, k] for kind in ("predicted", "truth", "std"))
        factor = float(calibration.factor[k])
        result[name] = {"factor": factor, "coverage_raw": statistics.coverage(mean - truth, std / factor),
                        "coverage": statistics.coverage(mean - truth, std)}
        if name != "ef":
            result[name] |= {"crps_raw": statistics.crps(mean, std / factor, truth),
                             "crps": statistics.crps(mean, std, truth)}
    return result
