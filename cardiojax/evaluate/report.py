"""An evaluation's files: metrics.json, predictions.csv, figures, and one page that shows them."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from cardiojax.data import Split
from cardiojax.data.frames import PREVIEWS, Frames
from cardiojax.evaluate import figures, statistics
from cardiojax.evaluate.judge import Judge, warn_of_a_teacher
from cardiojax.evaluate.measured import measured, parts_of
from cardiojax.evaluate.metrics import MEASURES, Accumulator, agreement, with_ef
from cardiojax.evaluate.overlap import rows_of_amounts, rows_of_masks, summary
from cardiojax.evaluate.samples import generated, sample_grid
from cardiojax.files import whole, write_rows, write_text
from cardiojax.models.gaugan import GauganModel
from cardiojax.models.measuring import MeasuringModel
from cardiojax.pages import page
from cardiojax.preparation import SIZE_PX
from cardiojax.preparation.batch import single_frames
from cardiojax.provenance import commit

NAMES = {"edv": "EDV (ml)", "esv": "ESV (ml)", "ef": "EF (points)"}


def evaluate(model: MeasuringModel, split: Split, out: Path, process: int = 0, processes: int = 1) -> dict | None:
    """Predict every study of a split and write an evaluation's files into `out`. Returns what metrics.json holds.

    What contours see is compared with the studies' own masks too, where there are any. Several processes share the
    studies: the last one to end writes the files, the others return None.
    """
    out.mkdir(parents=True, exist_ok=True)
    studies = measured(model, split, out, process, processes)
    if studies is None:
        return None
    volumes_ml = [np.array([s[of] for s in studies]) for of in ("predicted_ml", "truth_ml")]
    accumulator = Accumulator(model.mean_predictor)
    accumulator.add(*volumes_ml)
    rows, masks = [s["row"] for s in studies], [s["masks"] for s in studies if s["masks"]]
    predicted, truth = map(with_ef, volumes_ml)
    groups = statistics.subgroups(truth[:, 2], split.n_slices, split.slice_spacing_mm)
    result = {**accumulator.result(), "ef_classes": statistics.ef_classes(predicted[:, 2], truth[:, 2]),
              "subgroups": {group: {"n": int(which.sum()), **{
                  name: agreement(predicted[which, k], truth[which, k]) for k, name in enumerate(MEASURES)}}
                  for group, which in groups.items() if which.any()},
              "n": len(rows), "run": str(model.path), "data": split.name,
              "seed": model.settings["seed"], "commit": commit()}
    write_rows(out / "predictions.csv", [list(rows[0]), *(row.values() for row in rows)])
    tables = {"": table(result)}
    if masks:
        result |= summary(masks)
        tables |= {"Masks": rows_of_masks(result), "Other amounts": rows_of_amounts(result)}
    figures.scatter({"": (predicted, truth)}, out / "scatter.png")
    figures.bland_altman({"": (predicted, truth)}, out / "bland_altman.png")
    finish("Volumes against the truth", result, tables, out, ["scatter.png", "bland_altman.png"])
    shutil.rmtree(parts_of(out, processes), ignore_errors=True)
    return result


def judge(generator: GauganModel, judge_run: Path, split: Split, out: Path) -> dict:
    """Measure a GauGAN on the held-out masks of a split: metrics.json, samples.png, report.html in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    warn_of_a_teacher(generator.settings["config"], judge_run)
    by = Judge(judge_run, split)
    result = {**by.judge(generator), "n": len(by.studies), "run": str(generator.path), "judge": str(judge_run),
              "data": split.name, "seed": generator.settings["seed"], "commit": commit()}
    examples = Frames(split, generator.net.phases).examples(PREVIEWS, SIZE_PX)
    grid = sample_grid(single_frames(examples.masks), *generated(generator, examples))
    with whole(out / "samples.png") as partial:
        Image.fromarray(grid).save(partial)
    finish("Synthetic images against real ones of the same masks", result, {"": judgement(result)}, out,
           ["samples.png"])
    return result


def finish(title: str, result: dict, tables: dict[str, list[list[str]]], out: Path, pictures: list[str]):
    """metrics.json and report.html; `tables`: rows of text by their heading."""
    write_text(out / "metrics.json", json.dumps(result, indent=2))
    write_text(out / "report.html", page("evaluation.html", {p: out / p for p in pictures}, title=title,
                                         result=result, tables=tables))


def judgement(result: dict) -> list[list[str]]:
    """The figures of `judge` as rows of text, a header first."""
    rows = [["", "value", "meaning"]]
    for key, text in (("frechet", "distance in SFERA's features; 0 is indistinguishable"),
                      ("kernel", "the same as squared MMD (KID)"),
                      ("frechet_vgg16", "distance in VGG16's features"), ("kernel_vgg16", "the same as squared MMD"),
                      ("lpips", "perceptual distance of the pairs; 0 is equal"),
                      ("ssim", "structural similarity of the pairs; 1 is equal")):
        if key in result:
            rows.append([key, "not at hand" if result[key] is None else f"{result[key]:.4g}", text])
    for key, text in (("background_change", "mean |ED − ES|"), ("slice_change", "the same of neighbouring slices")):
        change = result[key]
        rows.append([key.replace("_", " "), f"{change['synthetic']:.4f} (real {change['real']:.4f})",
                     f"{text}, outside of the heart, of the intensity range"])
    for side, seen in result.get("mask_fidelity", {}).items():
        found = ", ".join(f"{k.removeprefix('dice_')} {v:.3f}" for k, v in seen.items() if k.startswith("dice"))
        rows.append([f"Dice, {side}", found, "of the masks found in the images with the masks they are of"])
        rows += [[f"{NAMES[name]}, {side}", f"r {seen[name]['r']:.3f}, RMSE {seen[name]['rmse']:.1f}, "
                  f"bias {seen[name]['bias']:+.1f}, MAE {seen[name]['mae']:.1f}",
                  "read from the images against the masks' own"] for name in MEASURES]
    for name in MEASURES:
        f = result["volume_fidelity"][name]
        rows.append([f"{NAMES[name]}", f"r {f['r']:.3f}, RMSE {f['rmse']:.1f}, bias {f['bias']:+.1f}",
                     "read from synthetic against from real images of the same patients"])
    return rows


def table(result: dict) -> list[list[str]]:
    """The metrics as rows of text, a header first."""
    rows = [["", "RMSE", "mean predictor", "MAE [95 % CI]", "r", "bias", "limits of agreement"]]
    for name in MEASURES:
        m = result[name]
        rows.append([NAMES[name], f"{m['rmse']:.1f}", f"{m['rmse_mean_predictor']:.1f}",
                     f"{m['mae']:.1f} [{m['mae_ci95'][0]:.1f}, {m['mae_ci95'][1]:.1f}]", f"{m['r']:.2f}",
                     f"{m['bias']:+.1f}", f"{m['loa'][0]:+.1f} … {m['loa'][1]:+.1f}"])
    return rows
