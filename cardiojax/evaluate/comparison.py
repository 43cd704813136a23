"""The experiment's answer: each way of pretraining against none, on the same test studies."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cardiojax import predict
from cardiojax.evaluate import statistics
from cardiojax.evaluate.metrics import MEASURES

BASELINE = "RSO"
COLUMNS, STDS = predict.COLUMNS[1:4], predict.COLUMNS[4:7]      # of EDV, ESV, EF, and of their deviations


def compare(out: Path, datasets: dict) -> dict:
    """`datasets` of an experiment's result → by dataset and experiment: `statistics.compared` of every measure and the
    verdict in a word, over the seeds that it shares with RSO; and the calibration of its deviations, seed 0."""
    found = {}
    for dataset, experiments in datasets.items():
        errors = {name: {m["seed"]: predictions(out / m["run"], f"{dataset}:test") for m in seeds}
                  for name, seeds in experiments.items()}
        found[dataset] = {name: {**against(errors[BASELINE], by_seed), "calibration": calibrated(
            predictions(out / experiments[name][0]["run"], f"{dataset}:validation"), by_seed[min(by_seed)])}
            for name, by_seed in errors.items()}
    return found


def predictions(run: Path, split: str) -> dict[str, Float[np.ndarray, "n 3"]]:
    """Predictions, truths and deviations of EDV, ESV (ml) and EF (percent), from an evaluation's predictions.csv."""
    with (run / "evaluations" / folder_name(split) / "predictions.csv").open(newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["study_id"])
    return {kind: np.array([[float(row[c]) for c in columns] for row in rows]) for kind, columns in (
        ("predicted", COLUMNS), ("truth", [f"true_{c}" for c in COLUMNS]), ("std", STDS))}


def folder_name(split: str) -> str:
    return split.replace("/", "_").replace(":", "_")


def against(baseline: dict[int, dict], seeds: dict[int, dict]) -> dict:
    shared = sorted(set(baseline) & set(seeds))
    before, after = (np.stack([by[s]["predicted"] - by[s]["truth"] for s in shared]) for by in (baseline, seeds))
    result = {"seeds": shared}
    if baseline is not seeds:
        for k, name in enumerate(MEASURES):
            result[name] = statistics.compared(before[:, :, k], after[:, :, k])
            result[name]["verdict"] = statistics.verdict(result[name]["rmse_ratio_ci95"])
    return result


def calibrated(validation: dict, test: dict) -> dict:
    """Coverage on the test studies before and after a factor fitted on the validation studies."""
    result = {}
    for k, name in enumerate(MEASURES):
        factor = statistics.recalibration(validation["predicted"][:, k] - validation["truth"][:, k],
                                          validation["std"][:, k])
        error, std = test["predicted"][:, k] - test["truth"][:, k], test["std"][:, k]
        result[name] = {"factor": factor, "coverage": statistics.coverage(error, std),
                        "coverage_recalibrated": statistics.coverage(error, factor * std)}
        if name != "ef":
            result[name]["crps"] = statistics.crps(test["predicted"][:, k], factor * std, test["truth"][:, k])
    return result
