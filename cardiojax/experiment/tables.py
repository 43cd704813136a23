"""The tables of an experiment's report, as rows of text with a header first, and table1.csv."""

import csv
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np

from cardiojax import units
from cardiojax.data import Split
from cardiojax.evaluate.metrics import MEASURES
from cardiojax.evaluate.statistics import EF_LIMITS, LOW_EF
from cardiojax.experiment.comparison import ordered
from cardiojax.experiment.words import interval, p_value
from cardiojax.files import write_rows


def table1(found: dict, masks_own: dict) -> list[list[str]]:
    figures = ("RMSE ± SD", "MAE [95 % CI]", "r")
    rows = [["", "updates", "seeds", *(f"{m.upper()} {figure}" for m in MEASURES for figure in figures)]]
    for name, updates, seeds, s in judged(found, masks_own):
        rows.append([name, f"{updates:,}" if updates else "", seeds, *(cell for m in MEASURES for cell in (
            f"{s[m]['rmse']:.1f} ± {s[m]['sd']:.1f}",
            f"{s[m]['mae']:.1f} [{s[m]['mae_ci95'][0]:.1f}, {s[m]['mae_ci95'][1]:.1f}]", f"{s[m]['r']:.2f}"))])
    return rows


def judged(found: dict, masks_own: dict) -> Iterator[tuple[str, int | None, str, dict]]:
    """Name, updates, number of seeds and figures of every row of Table 1; the masks' own below."""
    for name in ordered(found):
        yield name, found[name]["updates"], str(len(found[name]["summary"]["seeds"])), found[name]["summary"]
    for reading, own in masks_own.items():
        yield f"masks, {reading}", None, "", own


def published_rows() -> list[dict[str, str]]:
    """Published numbers: system, dataset, studies, and RMSE, MAE, r of EDV, ESV (ml) and EF (points)."""
    with files(__package__).joinpath("published.csv").open(encoding="utf8", newline="") as stream:
        return list(csv.DictReader(stream))


def published() -> list[list[str]]:
    return [["", "data", "studies", "EDV (ml)", "ESV (ml)", "EF (points)"], *(
        [row["system"], row["dataset"], row["studies"] or "–", *(
            " / ".join(row[f"{m}_{what}"] or "–" for what in ("rmse", "mae", "r")) for m in MEASURES)]
        for row in published_rows())]


def write_csv(file: Path, comparisons: dict, masks_own: dict):
    """Table 1, ours and published: one row an experiment or system, one column a figure."""
    kinds = ("rmse", "sd", "mae", "mae_ci95_low", "mae_ci95_high", "r")
    columns = ["source", "dataset", "experiment", "updates", "seeds", "studies",
               *(f"{m}_{k}" for m in MEASURES for k in kinds)]
    rows = []
    for dataset, found in comparisons.items():
        for name, updates, seeds, s in judged(found, masks_own[dataset]):
            rows.append({"source": "cardiojax", "dataset": dataset, "experiment": name, "updates": updates,
                         "seeds": seeds, "studies": s["n"], **{f"{m}_{k}": f"{v:.4g}" for m in MEASURES for k, v in zip(
                             kinds, (s[m]["rmse"], s[m]["sd"], s[m]["mae"], *s[m]["mae_ci95"], s[m]["r"]),
                             strict=True)}})
    rows += [{"source": "published", "experiment": row.pop("system"), **row} for row in published_rows()]
    write_rows(file, [columns, *([row.get(column, "") for column in columns] for row in rows)])


def tests(found: dict) -> list[list[str]]:
    """Every experiment against its baselines, the main one first."""
    rows = [["", "against", "updates", "seeds", "measure", "RMSE ratio [95 % CI]", "Kruskal–Wallis p", "Wilcoxon p",
             "verdict"]]
    for name in ordered(found):
        for against in (found[name][key] for key in ("against", "against_extra") if key in found[name]):
            baseline = against["baseline"]
            updates = f"{found[name]['updates']:,} / {found[baseline]['updates']:,}"
            for key, label in (*((m, m.upper()) for m in MEASURES), ("ef_below_40", "EF, studies < 40 %")):
                if m := against.get(key):
                    rows.append([name, baseline, updates, str(len(against["seeds"])), label, interval(m),
                                 p_value(m["kruskal_p"]), p_value(m["wilcoxon_p"]), m["verdict"]])
    return rows


def agreements(experiments: dict, found: dict) -> list[list[str]]:
    """Seed 0. Coverage and CRPS of the deviations without the model's calibration, and with it."""
    rows = [["", "measure", "bias [limits]", "ICC", "r, p", "factor", "95 % coverage, raw", "calibrated", "CRPS, raw",
             "calibrated", "EF class right"]]
    for name in ordered(found):
        m = experiments[name][0]
        for k in MEASURES:
            c = found[name]["calibration"][k]
            rows.append([name, k.upper(), f"{m[k]['bias']:+.1f} [{m[k]['loa'][0]:+.1f}, {m[k]['loa'][1]:+.1f}]",
                         f"{m[k]['icc']:.2f}", f"{m[k]['r']:.2f}, {p_value(m[k]['r_p'])}",
                         f"{c['factor']:.2f}", f"{c['coverage_raw']['95%']:.0%}", f"{c['coverage']['95%']:.0%}",
                         *(f"{c[key]:.4f}" if key in c else "" for key in ("crps_raw", "crps")),
                         f"{m['ef_classes']['accuracy']:.0%}" if k == "ef" else ""])
    return rows


def subgroups(experiments: dict) -> list[list[str]]:
    names = ordered(experiments)
    groups = experiments[names[0]][0]["subgroups"]                 # the same test studies for all
    return [["", "studies", *names], *([group, str(m["n"]), *(
        f"{np.mean([seed['subgroups'][group]['ef']['rmse'] for seed in experiments[e]]):.1f}" for e in names)]
        for group, m in groups.items())]


def confusion(metrics: dict) -> list[list[str]]:
    labels = [*(f"≤ {limit:g}" for limit in EF_LIMITS), f"> {EF_LIMITS[-1]:g}"]
    return [["", *labels], *([label, *map(str, row)] for label, row in zip(
        labels, metrics["ef_classes"]["counts"], strict=True))]


def by_seed(found: dict) -> list[list[str]]:
    seeds = sorted({s for f in found.values() for s in f["summary"]["seeds"]})
    return [["", *(f"seed {s}" for s in seeds)], *([name, *(
        f"{dict(zip(f['seeds'], f['ef']['rmse_of_seeds'], strict=True))[s]:.1f}" if s in f["seeds"] else ""
        for s in seeds)] for name in ordered(found) for f in (found[name]["summary"],))]


def data_table(splits: Mapping[str, Split], cohorts: Mapping[str, Mapping[str, Split]]) -> list[list[str]]:
    named = {**splits, **{f"cohort {c}:{s}": split for c, by in cohorts.items() for s, split in by.items()}}
    rows = [["", "studies", "patients", "EDV (ml)", "ESV (ml)", "EF (%)", "EF < 40 %", "slices", "spacing (mm)"]]
    for name, split in named.items():
        ef = units.ef_percent(*split.volumes_ml.T)
        rows.append([name, str(len(split)), str(len(split.ancestors)), *(
            f"{np.nanmean(v):.0f} ± {np.nanstd(v):.0f}" for v in (*split.volumes_ml.T, ef)),
            str(int((ef < LOW_EF).sum())), f"{split.n_slices.min()} to {split.n_slices.max()}",
            f"{split.slice_spacing_mm.min():g} to {split.slice_spacing_mm.max():g}"])
    return rows
