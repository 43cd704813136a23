"""What an evaluation leaves: metrics.json, predictions.csv, figures, and one page that shows them."""

import base64
import csv
import html
import json
from pathlib import Path

import numpy as np

from cardiojax.data import Split
from cardiojax.evaluate import figures
from cardiojax.evaluate.metrics import MEASURES, Accumulator, with_ef
from cardiojax.predict import COLUMNS, Predictor
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
    write_text(out / "metrics.json", json.dumps(result, indent=2))
    write_text(out / "report.html", page(result, [out / "scatter.png", out / "bland_altman.png"]))
    return result


def table(result: dict) -> list[list[str]]:
    """The metrics as rows of text, a header first."""
    rows = [["", "RMSE", "mean predictor", "MAE [95 % CI]", "r", "bias", "limits of agreement"]]
    for name in MEASURES:
        m = result[name]
        rows.append([NAMES[name], f"{m['rmse']:.1f}", f"{m['rmse_mean_predictor']:.1f}",
                     f"{m['mae']:.1f} [{m['mae_ci95'][0]:.1f}, {m['mae_ci95'][1]:.1f}]", f"{m['r']:.2f}",
                     f"{m['bias']:+.1f}", f"{m['loa'][0]:+.1f} … {m['loa'][1]:+.1f}"])
    return rows


def page(result: dict, images: list[Path]) -> str:
    """One self-contained HTML page."""
    head, *body = table(result)
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in body)
    pictures = "".join(f'<img alt="{i.stem}" src="data:image/png;base64,{base64.b64encode(i.read_bytes()).decode()}">'
                       for i in images)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>cardiojax evaluation</title>
<style>body{{font:16px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}}img{{max-width:100%}}
td,th{{padding:.3em 1em .3em 0;text-align:left}}</style>
<h1>Volumes against the truth</h1>
<p>{html.escape(result['data'])}, {result['n']} studies; run {html.escape(result['run'])}, seed {result['seed']},
commit {html.escape(result['commit'][:12] or 'unknown')}.</p>
<table><tr>{''.join(f'<th>{html.escape(h)}</th>' for h in head)}</tr>{cells}</table>{pictures}</html>"""
