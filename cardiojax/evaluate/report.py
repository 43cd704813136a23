"""What an evaluation leaves: metrics.json, predictions.csv, figures, and one page that shows them."""

import base64
import csv
import html
import json
from pathlib import Path

import numpy as np
from PIL import Image

from cardiojax.data import Split
from cardiojax.evaluate import figures
from cardiojax.evaluate.metrics import MEASURES, Accumulator, with_ef
from cardiojax.evaluate.synthesis import Judge
from cardiojax.frames import Frames
from cardiojax.generate import Synthesizer
from cardiojax.predict import COLUMNS, Predictor
from cardiojax.preprocess import SIZE_PX
from cardiojax.train.gaugan import PREVIEWS
from cardiojax.train.run import commit, write_text

NAMES = {"edv": "EDV (ml)", "esv": "ESV (ml)", "ef": "EF (points)"}


def evaluate(predictor: Predictor, split: Split, out: Path) -> dict:
    """Predict every study of a split and write all of the above into `out`. Returns what metrics.json holds."""
    out.mkdir(parents=True, exist_ok=True)
    accumulator = Accumulator(predictor.mean_predictor)
    rows = []
    for study, p in predictor.predict_split(split):
        assert study.volumes_ml is not None          # `open_split` has left such studies out
        accumulator.add(np.array([[p.edv_ml, p.esv_ml]]), study.volumes_ml[None])
        true = with_ef(np.asarray(study.volumes_ml, np.float64)[None])[0]
        rows.append({**p.row(), **{f"true_{name}": f"{v:.2f}" for name, v in
                                   zip(("edv_ml", "esv_ml", "ef_percent"), true, strict=True)}})
    result = {**accumulator.result(), "n": len(rows), "run": str(predictor.path), "data": split.name,
              "seed": predictor.settings["seed"], "commit": commit()}
    with (out / "predictions.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, "true_edv_ml", "true_esv_ml", "true_ef_percent"])
        writer.writeheader()
        writer.writerows(rows)
    predicted, truth = (with_ef(np.concatenate(v)) for v in (accumulator.predicted, accumulator.truth))
    figures.scatter(predicted, truth, out / "scatter.png")
    figures.bland_altman(predicted, truth, out / "bland_altman.png")
    finish("Volumes against the truth", result, table(result), out, ["scatter.png", "bland_altman.png"])
    return result


def judge(painter: Synthesizer, judge_run: Path, split: Split, out: Path) -> dict:
    """Measure a GauGAN on the held-out masks of a split: metrics.json, samples.png, report.html in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    by = Judge(judge_run, split)
    result = {**by.judge(painter), "n": len(by.studies), "run": str(painter.path), "judge": str(judge_run),
              "data": split.name, "seed": painter.settings["seed"], "commit": commit()}
    examples = Frames(split).examples(PREVIEWS, SIZE_PX)
    fakes, reals = painter.generate(examples.masks), examples.images / 127.5 - 1
    Image.fromarray(figures.sample_grid(examples.masks, fakes if fakes.ndim == 3 else fakes.mean(-1), reals)).save(
        out / "samples.png")
    finish("Synthetic images against real ones of the same masks", result, judgement(result), out, ["samples.png"])
    return result


def finish(title: str, result: dict, rows: list[list[str]], out: Path, pictures: list[str]):
    write_text(out / "metrics.json", json.dumps(result, indent=2))
    write_text(out / "report.html", page(title, result, rows, [out / p for p in pictures]))


def judgement(result: dict) -> list[list[str]]:
    """The figures of `judge` as rows of text, a header first."""
    rows = [["", "value", "what it says"]]
    for key, text in (("frechet", "distance in SFERA's features; 0 is indistinguishable"),
                      ("kernel", "the same as squared MMD (KID)"),
                      ("frechet_vgg16", "distance in VGG16's features"), ("kernel_vgg16", "the same as squared MMD"),
                      ("lpips", "perceptual distance of the pairs; 0 is equal"),
                      ("ssim", "structural similarity of the pairs; 1 is equal")):
        if key in result:
            rows.append([key, "not at hand" if result[key] is None else f"{result[key]:.4g}", text])
    change = result["background_change"]
    rows.append(["background change", f"{change['synthetic']:.4f} (real {change['real']:.4f})",
                 "mean |ED − ES| outside of the heart, of the intensity range"])
    for name in MEASURES:
        f = result["volume_fidelity"][name]
        rows.append([f"{NAMES[name]}", f"r {f['r']:.3f}, RMSE {f['rmse']:.1f}, bias {f['bias']:+.1f}",
                     "predicted on synthetic against on real images of the same patients"])
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


def page(title: str, result: dict, rows: list[list[str]], images: list[Path]) -> str:
    """One self-contained HTML page."""
    head, *body = rows
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in body)
    pictures = "".join(f'<img alt="{i.stem}" src="data:image/png;base64,{base64.b64encode(i.read_bytes()).decode()}">'
                       for i in images)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>cardiojax evaluation</title>
<style>body{{font:16px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}}img{{max-width:100%}}
td,th{{padding:.3em 1em .3em 0;text-align:left}}</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(result['data'])}, {result['n']} studies; run {html.escape(result['run'])}, seed {result['seed']},
commit {html.escape(result['commit'][:12] or 'unknown')}.</p>
<table><tr>{''.join(f'<th>{html.escape(h)}</th>' for h in head)}</tr>{cells}</table>{pictures}</html>"""
