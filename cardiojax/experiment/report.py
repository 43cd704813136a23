"""An experiment's report: report.html (self-contained), table1.csv, figures as PNG and SVG."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from cardiojax.data import Split
from cardiojax.evaluate import cohort_figures, figures
from cardiojax.evaluate.metrics import MEASURES
from cardiojax.experiment import claim, tables, words
from cardiojax.experiment import figures as experiment_figures
from cardiojax.experiment.comparison import BASELINE, LONG, PRETRAINED, folder_name, predictions
from cardiojax.files import read_arrays, write_text
from cardiojax.models.saved import read_metrics
from cardiojax.pages import page

DRAWN = ("RSO", "RSO-long", "SSO", "SSO-warp", "RSP", "RSP-warp", "RSA")         # learning curves
DIRECT = (BASELINE, LONG, PRETRAINED)           # shown study by study


def write(out: Path, result: dict, splits: Mapping[str, Split], cohorts: Mapping[str, Mapping[str, Split]]) -> Path:
    """Write it from `experiment.run`'s result. `splits` by NAME:SPLIT; `cohorts`, splits by name: uniform, warp."""
    drawn = out / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    datasets, comparisons, settings = result["datasets"], result["comparisons"], result["settings"]
    tables.write_csv(out / "table1.csv", comparisons, result["masks_own"])
    pictures = {file.stem: file for file in draw(drawn, out, result, splits, cohorts)}
    sizes = {d: {s: len(splits[f"{d}:{s}"]) for s in ("train", "validation", "test")} for d in datasets}
    checklist = claim.facts(
        goal="whether pretraining on synthetic studies makes volumes better; exploratory but for the primary endpoint",
        datasets=list(datasets), sfera=settings["config"]["sfera"], others={"GauGAN": settings["config"]["gaugan"]},
        seeds=words.finished([len(seeds) for found in datasets.values() for seeds in found.values()],
                             settings["config"]["seeds"]), drawn="studies and seeds", ensembles="",
        partitions="train, validation and test as the records have them, by the patients that each dataset names",
        tested=", ".join(f"{n['test']} test studies of {d}" for d, n in sizes.items()), commit=settings["commit"])
    write_text(out / "report.html", page(
        "experiment.html", pictures, title="Does pretraining on synthetic studies make volumes better?",
        first=settings["first"], second=settings["second"], preset=settings["preset"], commit=settings["commit"],
        config=settings["config"], settings=list(flat(settings["config"])), slug=folder_name, sizes=sizes,
        primary=words.primary(result["primary_endpoint"]),
        exploratory=[words.verdict(d, found, result["masks_own"][d]) for d, found in comparisons.items()],
        table1={d: tables.table1(found, result["masks_own"][d]) for d, found in comparisons.items()},
        published=tables.published(), tests={d: tables.tests(found) for d, found in comparisons.items()},
        agreements={d: tables.agreements(datasets[d], found) for d, found in comparisons.items()},
        subgroups={d: tables.subgroups(es) for d, es in datasets.items()},
        confusion={d: {e: tables.confusion(es[e][0]) for e in DIRECT if e in es} for d, es in datasets.items()},
        seeds={d: tables.by_seed(found) for d, found in comparisons.items()},
        synthetic_validation=[["", "studies", "RMSE of EDV (ml)", "ESV (ml)", "EF (points)", "r of EF"], *(
            [e, m["n"], *(f"{m[k]['rmse']:.1f}" for k in MEASURES), f"{m['ef']['r']:.2f}"]
            for e, m in result["synthetic_validation"].items())],
        fidelity=fidelity(out, result), data=tables.data_table(splits, cohorts), model=model(out, datasets),
        hardware=hardware(out), claim=claim.rows(checklist),
        limits="; ".join(f"{d} has {n['test']} test studies" for d, n in sizes.items())
        + ": the intervals say what that allows to tell apart."))
    return out / "report.html"


def draw(folder: Path, out: Path, result: dict, splits: Mapping[str, Split],
         cohorts: Mapping[str, Mapping[str, Split]]) -> Iterator[Path]:
    """Draw the figures; the file of each for the page: charts as SVG, images as PNG."""
    datasets, first = result["datasets"], result["settings"]["first"]
    if compared := {d: f for d, f in result["comparisons"].items() if any("against" in m for m in f.values())}:
        experiment_figures.ratios(compared, folder / "ratios.png")
        yield folder / "ratios.svg"
    for dataset, experiments in datasets.items():
        pairs = {}
        for name in DIRECT:
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
    if runs := {e: out / seeds[0]["run"] for e in DRAWN if (seeds := datasets.get(first, {}).get(e))}:
        experiment_figures.curves(runs, folder / "curves.png")
        yield folder / "curves.svg"


def fidelity(out: Path, result: dict) -> str:
    """Volumes in the generator's last evaluation, in words; empty where there is none yet."""
    if "gaugan" not in result["stages"]:
        return ""
    evaluations = [m for m in read_metrics(out / result["stages"]["gaugan"]) if m["kind"] == "validation"]
    if not evaluations:                                  # its stage is known before it is made
        return ""
    last = evaluations[-1]
    return ", ".join(f"{m.upper()} r {last[f'{m}_r']:.2f}, RMSE {last[f'{m}_rmse']:.1f}" for m in MEASURES)


def model(out: Path, datasets: dict) -> str:
    """The size of the network, which all experiments share."""
    run = out / next(seeds[0]["run"] for experiments in datasets.values() for seeds in experiments.values())
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
