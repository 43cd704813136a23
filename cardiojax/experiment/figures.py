"""Figures of an experiment: ratios to the baselines, agreement (paper, Figs. 4 and 5), learning curves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cardiojax.evaluate import figures
from cardiojax.evaluate.metrics import MEASURES
from cardiojax.experiment.comparison import ordered
from cardiojax.models.saved import read_metrics

SMOOTH = 20            # steps that a point of a training curve averages


def ratios(comparisons: Mapping[str, dict], file: Path):
    """RMSE of every experiment over its main baseline's with its interval, a panel for each dataset."""
    names = [[n for n in ordered(found) if "against" in found[n]] for found in comparisons.values()]
    height = 1.2 + 0.42 * max(map(len, names))
    figure, axes = figures.subplots(1, len(names), (5.5 * len(names), height))
    for axis, (dataset, found), shown in zip(axes[0], comparisons.items(), names, strict=True):
        for k, measure in enumerate(MEASURES):
            at = np.arange(len(shown)) + 0.22 * (k - 1)
            values = np.array([found[n]["against"][measure]["rmse_ratio"] for n in shown])
            ends = np.array([found[n]["against"][measure]["rmse_ratio_ci95"] for n in shown]).reshape(-1, 2)
            axis.errorbar(values, at, xerr=np.abs(ends.T - values), fmt="o", markersize=4, capsize=2,
                          label=measure.upper(), color=("tab:blue", "tab:orange", "black")[k])
        axis.axvline(1, color="0.6", linewidth=1)
        axis.set(title=dataset, yticks=range(len(shown)), xlabel="ratio of RMSE", xscale="log",
                 yticklabels=[f"{n} / {found[n]['against']['baseline']}" for n in shown])
        ticks = [t for t in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4) if axis.get_xlim()[0] <= t <= axis.get_xlim()[1]]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.set_xticks([], minor=True)
        axis.invert_yaxis()
    axes[0, -1].legend(fontsize=8)
    figures.save(figure, file)


def curves(runs: Mapping[str, Path], file: Path):
    """Training loss of the volumes, and the validation studies' EF, by step."""
    figure, ((training, validation),) = figures.subplots(1, 2, (11, 3.8))
    for name, run in runs.items():
        lines = read_metrics(run)
        steps, losses = zip(*((m["step"], m["volume_rmse"]) for m in lines if m["kind"] == "train"), strict=True)
        window = min(SMOOTH, len(losses))
        training.plot(steps[window - 1:], np.convolve(losses, np.ones(window) / window, "valid"), label=name,
                      linewidth=1)
        watched = [(m["step"], m["ef_rmse"] / m["ef_rmse_mean_predictor"]) for m in lines if m["kind"] == "validation"]
        validation.plot(*zip(*watched, strict=True), marker="o", markersize=4, label=name, linewidth=1)
    training.set(xlabel="step", ylabel="RMSE of scaled volumes", yscale="log")
    validation.axhline(1, color="0.6", linewidth=1)
    validation.set(xlabel="step", ylabel="RMSE of EF / mean predictor's")
    validation.legend(fontsize=8)
    figures.save(figure, file)
