"""Figures of the synthetic cohort: the paper's Figs. 1 (EF histograms), 2 (workflow on a slice), 3 (three stacks)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cardiojax import units
from cardiojax.data import Split
from cardiojax.evaluate.figures import save, subplots
from cardiojax.evaluate.samples import MASK_COLOURS
from cardiojax.study import ED, ES, Study
from cardiojax.synthesis.cohort import EDGES
from cardiojax.synthesis.masks import Recipe, Shapes

STACK_EFS, SLICES = (20, 45, 70), 8         # Fig. 3: the studies next to these EFs (%)
WORKFLOW = (Recipe("low_ed", 3), Recipe("low_es", 6), Recipe("low_es", 2), Recipe("high", 4), Recipe("high", 12))


def draw(real: Mapping[str, Split], synthetic: Mapping[str, Split], folder: Path):
    """fig1_ef.png, fig2_workflow.png and fig3_stacks.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    ef_histograms(real, synthetic, folder / "fig1_ef.png")
    split = next(iter(synthetic))
    ancestors = iter(real[split])
    workflow(next(s for s in ancestors if s.masks is not None and s.masks.any()), folder / "fig2_workflow.png")
    stacks(synthetic[split], folder / "fig3_stacks.png")


def ef_histograms(real: Mapping[str, Split], synthetic: Mapping[str, Split], file: Path):
    """Fig. 1: the real patients' EF, and the synthetic studies', split by split."""
    figure, axes = subplots(2, len(real), (5 * len(real), 5), sharex=True)
    for row, (kind, splits) in enumerate((("real", real), ("synthetic", synthetic))):
        for axis, (name, split) in zip(axes[row], splits.items(), strict=True):
            ef = units.ef_percent(*split.volumes_ml.T)
            ef = ef[np.isfinite(ef)]
            axis.hist(ef, bins=EDGES, color="0.6" if kind == "real" else "tab:blue", edgecolor="white")
            axis.set(title=f"{kind}, {name}: {len(split)} studies", xlabel="EF (%)", ylabel="studies")
    save(figure, file)


def workflow(study: Study, file: Path):
    """Fig. 2: one slice in the middle of the LV, and its changed masks."""
    assert study.masks is not None
    shapes = Shapes(study.masks)
    area = units.lv_area_mm2(study.masks, study.pixel_spacing_mm)[:, ED]
    s = int(np.argmin(np.abs(np.cumsum(area) - area.sum() / 2)))
    columns = [("as it is", study.masks)] + [(f"{r.kind} {r.step}", shapes.pair(r)) for r in WORKFLOW]
    figure, axes = subplots(2, len(columns), (2.2 * len(columns), 5))
    for (title, masks), column in zip(columns, axes.T, strict=True):
        edv, esv = units.simpson_ml(units.lv_area_mm2(masks, (1.0, 1.0)), study.slice_spacing_mm)
        for frame, axis in zip((ED, ES), column, strict=True):
            axis.imshow(MASK_COLOURS[masks[s, ..., frame]])
            axis.set(xticks=[], yticks=[], xlabel=("ED", "ES")[frame])
        column[0].set_title(f"{title}\nEF {units.ef_percent(edv, esv):.0f} %", fontsize=9)
    save(figure, file)


def stacks(split: Split, file: Path):
    """Fig. 3: three studies of different EF, slices from base to apex, ED above ES."""
    efs = units.ef_percent(*split.volumes_ml.T)
    studies = [split[int(np.abs(efs - wanted).argmin())] for wanted in STACK_EFS]
    figure, axes = subplots(2 * len(studies), SLICES, (1.5 * SLICES, 3.1 * len(studies)))
    for i, study in enumerate(studies):
        at = np.linspace(0, len(study) - 1, SLICES).round().astype(int)
        for frame in (ED, ES):
            for axis, s in zip(axes[2 * i + frame], at, strict=True):
                axis.imshow(study.frames[s, ..., frame], cmap="gray", vmin=0, vmax=255)
                axis.set(xticks=[], yticks=[])
            axes[2 * i + frame, 0].set_ylabel(("ED", "ES")[frame])
        assert study.volumes_ml is not None              # `open_split` has left such studies out
        edv, esv = study.volumes_ml
        axes[2 * i, 0].set_title(f"EDV {edv:.0f} ml, ESV {esv:.0f} ml, EF {units.ef_percent(edv, esv):.0f} %",
                                 fontsize=9, loc="left")
    save(figure, file)
