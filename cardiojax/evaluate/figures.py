"""Figures of agreement: scatter (paper, Fig. 4) and Bland–Altman (Fig. 5)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cardiojax.evaluate.metrics import agreement
from cardiojax.evaluate.samples import MASK_COLOURS
from cardiojax.files import whole
from cardiojax.models.curve import Curve
from cardiojax.models.masks import cleaned
from cardiojax.models.prediction import Prediction
from cardiojax.units import LABELS, LV, MYOCARDIUM, RV

TITLES = ("EDV (ml)", "ESV (ml)", "EF (%)")


Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]     # title → predicted and true EDV, ESV (ml), EF (percent): (N, 3)


def scatter(pairs: Pairs, file: Path):
    """Predicted against true, a row of EDV, ESV and EF for each of `pairs`."""
    for axis, name, predicted, truth in _panels(pairs, 3.8, file):
        result = agreement(predicted, truth)
        ends = [min(np.nanmin(predicted), truth.min()), max(np.nanmax(predicted), truth.max())]
        axis.plot(ends, ends, color="0.6", linewidth=1)
        axis.scatter(truth, predicted, s=14, alpha=0.7)
        axis.set(title=f"{name}: RMSE {result['rmse']:.1f}, r {result['r']:.2f}", xlabel="true", ylabel="predicted")
        axis.set_box_aspect(1)


def bland_altman(pairs: Pairs, file: Path):
    """Error against the mean of both, with bias and mean ± 1.96 SD; a row of EDV, ESV and EF for each of `pairs`."""
    for axis, name, predicted, truth in _panels(pairs, 3.4, file):
        result = agreement(predicted, truth)
        axis.scatter((predicted + truth) / 2, predicted - truth, s=14, alpha=0.7)
        for value, style in ((result["bias"], "-"), *((limit, "--") for limit in result["loa"])):
            if np.isfinite(value):
                axis.axhline(value, color="0.4", linestyle=style, linewidth=1)
        axis.set(title=f"{name}: bias {result['bias']:+.1f}", xlabel="mean of both", ylabel="predicted − true")


def _panels(pairs: Pairs, height: float, file: Path) -> Iterator[tuple[Axes, str, np.ndarray, np.ndarray]]:
    """Axes to draw on, one after the other; saved after the last."""
    figure, axes = subplots(len(pairs), 3, (11, height * len(pairs)), sharex="col", sharey="col")
    for row, (title, (predicted, truth)) in zip(axes, pairs.items(), strict=True):
        for k, axis in enumerate(row):
            yield axis, f"{title} {TITLES[k]}".strip(), predicted[:, k], truth[:, k]
    save(figure, file)


def contact_sheet(prediction: Prediction, folder: Path):
    """STUDY_ID.png: the slices of a measured study, base → apex, ED above ES, with the contours that were seen
    (`masks.cleaned`), below them the curve of a cine; titled with the numbers."""
    study, curve = prediction.study, prediction.curve
    assert study is not None
    n, masks = len(study), None if study.masks is None else cleaned(study.masks)
    figure = Figure(figsize=(1.3 * n + 0.5, 3.4 if curve is None else 5.6), layout="constrained")
    rows = figure.add_gridspec(2 if curve is None else 3, n, height_ratios=[1, 1] if curve is None else [1, 1, 1.6])
    for row, name in enumerate(("ED", "ES")):
        for s in range(n):
            axis = figure.add_subplot(rows[row, s])
            axis.imshow(study.frames[s, :, :, row], cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
            if masks is not None:
                _draw_contours(axis, masks[s, :, :, row])
            if s == 0:
                axis.set_ylabel(name)
    if curve is not None:
        _draw_curve(figure.add_subplot(rows[2, :]), curve, (prediction.ed_frame, prediction.es_frame))
    p = prediction
    said = (f"{p.study_id}: EDV {p.edv_ml:.0f} ± {p.edv_std_ml:.0f} ml, ESV {p.esv_ml:.0f} ± {p.esv_std_ml:.0f} ml, "
            f"EF {p.ef_percent:.0f} ± {p.ef_std_percent:.0f} %")
    figure.suptitle(f"{said}\nrefer: {p.reasons}" if p.refer else said, fontsize=9,
                    color="firebrick" if p.refer else "black")
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / f"{study.study_id}.png") as partial:
        figure.savefig(partial, dpi=130)


def _draw_contours(axis: Axes, mask: UInt8[np.ndarray, "h w"]):
    for label in (MYOCARDIUM, RV, LV):                  # the cavity's line over its wall's
        if (mask == label).any():
            axis.contour(mask == label, levels=[0.5], colors=[MASK_COLOURS[label] / 255], linewidths=0.8)


def curve_figure(curve: Curve, marked: Sequence[int | None]) -> Figure:
    """Volumes over the cycle by themselves; `marked`: 1-based ED and ES."""
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    _draw_curve(figure.add_subplot(), curve, marked)
    return figure


def _draw_curve(axis: Axes, curve: Curve, marked: Sequence[int | None]):
    """Volumes over the cycle; `marked`: 1-based ED and ES."""
    phases = len(curve.lv_ml)
    at, label = np.arange(1, phases + 1), "phase"
    if curve.phase_ms is not None:
        at, label = curve.phase_ms, "ms after the R wave"
    for name, values in (("LV", curve.lv_ml), ("RV", curve.rv_ml)):
        if values.max() > 1:
            axis.plot(at, values, color=MASK_COLOURS[LABELS.index(name)] / 255, label=name)
    for number, name in zip(marked, ("ED", "ES"), strict=True):
        if number is not None:
            axis.axvline(at[number - 1], color="0.6", linewidth=0.8)
            axis.annotate(f"{name}, phase {number}", (at[number - 1], axis.get_ylim()[1]), fontsize=8, va="top")
    axis.set(xlabel=label, ylabel="ml")
    axis.legend(fontsize=8)


def subplots(rows: int, columns: int, size_inches: Sequence[float | int], **more) -> tuple[Figure, np.ndarray]:
    """A figure and its (rows, columns) of axes. Without pyplot, which would change the backend of a notebook that has
    loaded us."""
    figure = Figure(figsize=size_inches, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def save(figure, file: Path):
    """As PNG under the name given, and as SVG beside it."""
    for name in (file, file.with_suffix(".svg")):
        with whole(name) as partial:
            figure.savefig(partial, dpi=130)
