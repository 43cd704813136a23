"""What an experiment leaves to read: report.html (self-contained), table1.csv, figures as PNG and SVG."""

import csv
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np

from cardiojax import units
from cardiojax.data import Split
from cardiojax.evaluate import cohort_figures, figures
from cardiojax.evaluate.metrics import MEASURES
from cardiojax.evaluate.report import page
from cardiojax.evaluate.statistics import EF_LIMITS, LOW_EF
from cardiojax.experiment import figures as experiment_figures
from cardiojax.experiment.comparison import BASELINE, LONG, PRETRAINED, WARPED, folder_name, ordered, predictions
from cardiojax.files import read_arrays, write_text
from cardiojax.models.saved import read_metrics

DRAWN = ("RSO", "RSO-long", "SSO", "SSO-warp", "RSP", "RSP-warp", "RSA")         # learning curves
SAID = {"better": "helped", "worse": "harmed", "not decided": "neither helped nor harmed beyond chance: not decided"}
CONTROLS = {WARPED: ("With warped real images in the generator's place", "the generator"),
            LONG: ("Trained on real studies alone for as many steps as SSO and RSP together", "the synthetic cohort")}
MATTERS = {"better": "earns its keep", "worse": "costs more than it brings", "not decided": "is not shown to add to it"}


def write(out: Path, result: dict, splits: Mapping[str, Split], cohorts: Mapping[str, Mapping[str, Split]]) -> Path:
    """All of it from `experiment.run`'s result. `splits` by NAME:SPLIT; `cohorts`, splits by name: uniform, warp."""
    drawn = out / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    datasets, comparisons, settings = result["datasets"], result["comparisons"], result["settings"]
    write_csv(out / "table1.csv", comparisons, result["masks_own"])
    pictures = {file.stem: file for file in draw(drawn, out, result, splits, cohorts)}
    sizes = {d: {s: len(splits[f"{d}:{s}"]) for s in ("train", "validation", "test")} for d in datasets}
    write_text(out / "report.html", page(
        "experiment.html", pictures, title="Does pretraining on synthetic studies make volumes better?",
        first=settings["first"], second=settings["second"], preset=settings["preset"], commit=settings["commit"],
        config=settings["config"], settings=list(flat(settings["config"])), slug=folder_name, sizes=sizes,
        verdict=[verdict(d, found, result["masks_own"][d]) for d, found in comparisons.items()],
        table1={d: table1(found, result["masks_own"][d]) for d, found in comparisons.items()}, published=published(),
        tests={d: tests(found) for d, found in comparisons.items()},
        agreements={d: agreements(datasets[d], found) for d, found in comparisons.items()},
        subgroups={d: subgroups(es) for d, es in datasets.items()},
        confusion={d: {e: confusion(es[e][0]) for e in (BASELINE, PRETRAINED) if e in es}
                   for d, es in datasets.items()},
        seeds={d: by_seed(found) for d, found in comparisons.items()},
        synthetic_validation=[["", "studies", "RMSE of EDV (ml)", "ESV (ml)", "EF (points)", "r of EF"], *(
            [e, m["n"], *(f"{m[k]['rmse']:.1f}" for k in MEASURES), f"{m['ef']['r']:.2f}"]
            for e, m in result["synthetic_validation"].items())],
        fidelity=fidelity(out, result), data=data_table(splits, cohorts), model=model(out, datasets),
        hardware=hardware(out), limits="; ".join(f"{d} has {n['test']} test studies" for d, n in sizes.items())
        + ": the intervals say what that allows to tell apart."))
    return out / "report.html"


def draw(folder: Path, out: Path, result: dict, splits: Mapping[str, Split],
         cohorts: Mapping[str, Mapping[str, Split]]) -> Iterator[Path]:
    """The figures, each as it stands on disk: charts as SVG, images as PNG."""
    datasets, first = result["datasets"], result["settings"]["first"]
    if any(len(found) > 1 for found in result["comparisons"].values()):
        experiment_figures.ratios({d: f for d, f in result["comparisons"].items() if len(f) > 1}, folder / "ratios.png")
        yield folder / "ratios.svg"
    for dataset, experiments in datasets.items():
        pairs = {}
        for name in (BASELINE, PRETRAINED):
            if name in experiments:
                p = predictions(out / experiments[name][0]["run"], f"{dataset}:test")
                pairs[name] = p["predicted"], p["truth"]
        for name, draw_pairs in (("fig4", figures.scatter), ("fig5", figures.bland_altman)):
            draw_pairs(pairs, folder / f"{name}_{folder_name(dataset)}.png")
            yield folder / f"{name}_{folder_name(dataset)}.svg"
    if "uniform" in cohorts:
        cohort_figures.ef_histograms({s: splits[f"{first}:{s}"] for s in cohorts["uniform"]}, cohorts["uniform"],
                                     folder / "fig1_ef.png")
        yield folder / "fig1_ef.svg"
    for cohort, name in (("uniform", "fig3_stacks"), ("warp", "fig3_warp")):
        if cohort in cohorts:
            cohort_figures.stacks(cohorts[cohort]["train"], folder / f"{name}.png")
            yield folder / f"{name}.png"
    experiment_figures.curves({e: out / datasets[first][e][0]["run"] for e in DRAWN if e in datasets[first]},
                              folder / "curves.png")
    yield folder / "curves.svg"


def verdict(dataset: str, found: dict, masks_own: dict) -> str:
    """The answer for one dataset in words, from the statistics alone."""
    if PRETRAINED not in found:
        return f"{dataset}: RSP has not been trained yet."
    rso, rsp, ef = found[BASELINE]["summary"], found[PRETRAINED]["summary"], found[PRETRAINED]["against"]["ef"]
    n = len(found[PRETRAINED]["against"]["seeds"])
    words = [f"{dataset}: pretraining on the synthetic cohort {SAID[ef['verdict']]}.",
             f"RMSE of EF {rso['ef']['rmse']:.1f} points without it (RSO) and {rsp['ef']['rmse']:.1f} with it (RSP),",
             f"ratio {interval(ef)} over {n} seed{'s' if n > 1 else ''} and {rso['n']} test studies",
             f"(Kruskal–Wallis p {p_value(ef['kruskal_p'])}, Wilcoxon p {p_value(ef['wilcoxon_p'])})."]
    for k in ("edv", "esv"):
        m = found[PRETRAINED]["against"][k]
        words.append(f"{k.upper()}: ratio {interval(m)}, {m['verdict']}.")
    if low := found[PRETRAINED]["against"].get("ef_below_40"):
        words.append(f"EF on the {low['n']} studies below 40 %: ratio {interval(low)}, {low['verdict']}.")
    for control, direct in found[PRETRAINED]["against_controls"].items():
        alone, (when, what) = found[control]["against"]["ef"], CONTROLS[control]
        words.append(f"{when} the ratio to RSO is {interval(alone)}, {alone['verdict']}; RSP against that: "
                     f"{interval(direct['ef'])}, so that {what} {MATTERS[direct['ef']['verdict']]}.")
    if masks_own:
        n, own = (masks_own["fitted"][k] for k in ("n", "ef"))
        words.append(f"The annotators' own masks, fitted to the training studies' volumes, miss the EF of {n} test "
                     f"studies by {own['rmse']:.1f} points (RMSE), {own['rmse'] / rso['ef']['rmse']:.2f} of RSO's.")
    return " ".join(words)


def interval(m: dict) -> str:
    low, high = m["rmse_ratio_ci95"]
    return f"{m['rmse_ratio']:.2f} [{low:.2f}, {high:.2f}]"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def table1(found: dict, masks_own: dict) -> list[list[str]]:
    rows = [["", "seeds", *(f"{m.upper()} {what}" for m in MEASURES for what in ("RMSE ± SD", "MAE [95 % CI]", "r"))]]
    for name, seeds, s in judged(found, masks_own):
        rows.append([name, seeds, *(cell for m in MEASURES for cell in (
            f"{s[m]['rmse']:.1f} ± {s[m]['sd']:.1f}",
            f"{s[m]['mae']:.1f} [{s[m]['mae_ci95'][0]:.1f}, {s[m]['mae_ci95'][1]:.1f}]", f"{s[m]['r']:.2f}"))])
    return rows


def judged(found: dict, masks_own: dict) -> Iterator[tuple[str, str, dict]]:
    """Name, number of seeds and figures of every row of Table 1; the masks' own below."""
    for name in ordered(found):
        yield name, str(len(found[name]["summary"]["seeds"])), found[name]["summary"]
    for how, own in masks_own.items():
        yield f"masks, {how}", "", own


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
    columns = ["source", "dataset", "experiment", "seeds", "studies", *(f"{m}_{k}" for m in MEASURES for k in kinds)]
    rows = []
    for dataset, found in comparisons.items():
        for name, seeds, s in judged(found, masks_own[dataset]):
            rows.append({"source": "cardiojax", "dataset": dataset, "experiment": name, "seeds": seeds,
                         "studies": s["n"], **{f"{m}_{k}": f"{v:.4g}" for m in MEASURES for k, v in zip(
                             kinds, (s[m]["rmse"], s[m]["sd"], s[m]["mae"], *s[m]["mae_ci95"], s[m]["r"]),
                             strict=True)}})
    rows += [{"source": "published", "experiment": row.pop("system"), **row} for row in published_rows()]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def tests(found: dict) -> list[list[str]]:
    rows = [["", "seeds", "measure", "RMSE ratio [95 % CI]", "Kruskal–Wallis p", "Wilcoxon p", "verdict"]]
    for name in ordered(found):
        against = found[name].get("against", {})
        for key, label in (*((m, m.upper()) for m in MEASURES), ("ef_below_40", "EF, studies < 40 %")):
            if m := against.get(key):
                rows.append([name, str(len(against["seeds"])), label, interval(m), p_value(m["kruskal_p"]),
                             p_value(m["wilcoxon_p"]), m["verdict"]])
    return rows


def agreements(experiments: dict, found: dict) -> list[list[str]]:
    rows = [["", "measure", "bias [limits]", "ICC", "r, p", "CRPS", "coverage 95 %", "factor", "recalibrated",
             "EF class right"]]
    for name in ordered(found):
        m = experiments[name][0]
        for k in MEASURES:
            c = found[name]["calibration"][k]
            rows.append([name, k.upper(), f"{m[k]['bias']:+.1f} [{m[k]['loa'][0]:+.1f}, {m[k]['loa'][1]:+.1f}]",
                         f"{m[k]['icc']:.2f}", f"{m[k]['r']:.2f}, {p_value(m[k]['r_p'])}",
                         f"{c['crps']:.4f}" if "crps" in c else "", f"{c['coverage']['95%']:.0%}",
                         f"{c['factor']:.2f}", f"{c['coverage_recalibrated']['95%']:.0%}",
                         f"{m['ef_classes']['accuracy']:.0%}" if k == "ef" else ""])
    return rows


def subgroups(experiments: dict) -> list[list[str]]:
    names = ordered(experiments)
    groups = experiments[BASELINE][0]["subgroups"]
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


def fidelity(out: Path, result: dict) -> str:
    """The generator's last evaluation, in words; empty where there is no generator."""
    if "gaugan" not in result["stages"]:
        return ""
    last = [m for m in read_metrics(out / result["stages"]["gaugan"]) if m["kind"] == "validation"][-1]
    return ", ".join(f"{m.upper()} r {last[f'{m}_r']:.2f}, RMSE {last[f'{m}_rmse']:.1f}" for m in MEASURES)


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


def model(out: Path, datasets: dict) -> str:
    run = out / next(iter(datasets.values()))[BASELINE][0]["run"]
    return f"{sum(a.size for k, a in read_arrays(run / 'model.npz').items() if k.startswith('params/')):,} parameters"


def hardware(out: Path) -> str:
    stages = [json.loads(file.read_text()) for file in (*out.glob("stages/*/stage.json"),
                                                        *out.glob("data/synthetic/*/*/stage.json"))]
    devices = sorted({f"{s['devices']} × {s['device']}" for s in stages})
    return f"{', '.join(devices)}; {sum(s['seconds'] for s in stages) / 3600:.1f} hours for {len(stages)} stages"


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
