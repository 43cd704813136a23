"""How the error of each arm falls with the number of labelled studies: points, comparisons, the figure and the page.

One comparison is the endpoint that is named beforehand: EF's RMSE of the main pretraining over RSO's, with as many
updates, at the fewest labelled studies. All others are exploratory.
"""

import collections
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cardiojax.errors import DataError
from cardiojax.evaluate import figures
from cardiojax.evaluate.metrics import MEASURES, agreement
from cardiojax.experiment import cells, claim, words
from cardiojax.experiment.comparison import Predictions, against
from cardiojax.experiment.folders import ready
from cardiojax.experiment.label_arms import HYBRID, RSO, LabelArms
from cardiojax.files import write_text
from cardiojax.pages import page
from cardiojax.provenance import commit

log = logging.getLogger("cardiojax")

NETWORKS = {"contours": "contours", "teaching": "contours of elsewhere, taught", "gaugan": "GauGAN"}     # by setting
UNITS = {"edv": "EDV (ml)", "esv": "ESV (ml)", "ef": "EF (points)"}
BySeed = dict[int, Predictions]
Curve = dict[str, dict[int, BySeed]]           # by arm and number of labelled studies


def run(arms: LabelArms, known: Sequence[Path] = ()) -> dict:
    """All cells of a setting. The points so far are in OUT/label_curve.json after each of them and their predictions in
    OUT/cells.json, at the end also the comparisons, and label_curve.html with its figure beside it. Where the arms make
    nothing: of the stages that are there. known: files such as cells.json, whose cells are not made again.

    Raises InputError for a file of other settings, DataError where no cell is finished.
    """
    curve: Curve = {}
    making = arms.cells()
    making |= {cell: functools.partial(dict, found) for cell, found in cells.known(known, arms).items()
               if cell in making}
    arms.out.mkdir(parents=True, exist_ok=True)
    result = {"settings": arms.settings() | {"commit": commit()}, "setting": arms.setting(), "tested": arms.tested(),
              "sees": arms.sees(), "drawn": "folds and the studies of each" if arms.pooled else "studies and seeds"}
    for (arm, count, seed), found in ready(making):
        curve.setdefault(arm, {}).setdefault(count, {})[seed] = found
        finished = {(arm, count, seed): p for arm, by in curve.items() for count, seeds in sorted(by.items())
                    for seed, p in sorted(seeds.items())}
        result["points"] = [point(arm, arms.updates(arm), count, seed, p) for (arm, count, seed), p in finished.items()]
        write_text(arms.out / "label_curve.json", json.dumps(result, indent=2))
        cells.write(arms, finished)
        log.info("%s, %d labelled studies, seed %d: EF RMSE %.1f", arm, count, seed,
                 agreement(found["predicted"][:, 2], found["truth"][:, 2])["rmse"])
    if not curve:
        raise DataError(f"no training of the label curve is finished in {arms.out}")
    result["comparisons"] = compared(curve, arms.control, arms.pooled)
    result["primary_endpoint"] = primary_endpoint(arms, result["comparisons"])
    write_text(arms.out / "label_curve.json", json.dumps(result, indent=2))
    with arms.locked(arms.out / "report", wait=True):
        write(arms.out, result)
    return result


def point(arm: str, updates: int, count: int, seed: int, found: Predictions) -> dict:
    """Errors of one cell on the test studies."""
    measures = {name: agreement(found["predicted"][:, k], found["truth"][:, k]) for k, name in enumerate(MEASURES)}
    return {"arm": arm, "labelled": count, "seed": seed, "updates": updates, "n": len(found["truth"]), **{
        name: {key: m[key] for key in ("rmse", "mae", "bias", "r", "undefined")} for name, m in measures.items()}}


def compared(curve: Curve, control: str | None, pooled: bool) -> list[dict]:
    """Every arm against RSO with as many labelled studies, over the seeds that both have; what was pretrained also
    against `control`. pooled: the seeds' studies are folds, and are compared as one set."""
    found = []
    for arm, by_count in curve.items():
        pretrained = arm.startswith("RSP") and arm != control
        for baseline in (RSO, *((control,) if control and pretrained else ())):
            for count, seeds in sorted(by_count.items()):
                other = curve.get(baseline, {}).get(count, {})
                if arm != baseline and seeds.keys() & other.keys():
                    found.append({"arm": arm, "against": baseline, "labelled": count,
                                  **against(other, seeds, folds=pooled)})
    return found


def primary_endpoint(arms: LabelArms, comparisons: list[dict]) -> dict:
    """What was named before; `result` is None until both are there."""
    named = {"arm": arms.main, "against": RSO, "labelled": arms.counts[0]}
    found = next((c for c in comparisons if named.items() <= c.items()), None)
    return {**named, "measure": "ef", "statistic": "rmse_ratio", "exploratory": "all other comparisons",
            "result": found and {"seeds": found["seeds"], **found["ef"]}}


def verdicts(result: dict) -> list[str]:
    """What each number of labelled studies says of the main pretraining, in words."""
    main = result["primary_endpoint"]["arm"]
    found = [(c, c["ef"]) for c in result["comparisons"] if c["arm"] == main]
    return [f"{c['labelled']} labelled studies: {main} {words.SAID[ef['verdict']]} (EF RMSE ratio to {c['against']} "
            f"{words.interval(ef)}, {words.seeds(c['seeds'])}, Wilcoxon p {words.p_value(ef['wilcoxon_p'])}; EDV "
            f"{words.interval(c['edv'])}, {c['edv']['verdict']})." for c, ef in found]


def primary_in_words(result: dict) -> str:
    endpoint = result["primary_endpoint"]
    named = (f"Primary endpoint: RMSE of EF on {result['tested']} test studies of {result['settings']['dataset']}, "
             f"{endpoint['arm']} over {endpoint['against']} with {endpoint['labelled']} labelled studies and equal "
             "updates")
    if (found := endpoint["result"]) is None:
        return f"{named}. Not both have been trained yet."
    ratio, wanted = words.interval(found), result["settings"]["config"]["seeds"]
    if len(found["seeds"]) < wanted:
        return (f"{named}: ratio {ratio} so far, over {len(found['seeds'])} of {wanted} seeds. It is decided when all "
                "are there.")
    return (f"{named}: ratio {ratio} over {words.seeds(found['seeds'])}. Pretraining on synthetic studies "
            f"{words.SAID[found['verdict']]}.")


def table(result: dict, measure: str) -> list[list[str]]:
    """RMSE (bias), means over the seeds: a row for each arm, a column for each number of labelled studies."""
    points = result["points"]
    counts, arms = sorted({p["labelled"] for p in points}), list(dict.fromkeys(p["arm"] for p in points))

    def cell(arm: str, count: int) -> str:
        found = [p[measure] for p in points if (p["arm"], p["labelled"]) == (arm, count)]
        rmse, bias = ([m[key] for m in found] for key in ("rmse", "bias"))
        return f"{np.mean(rmse):.1f} ({np.mean(bias):+.1f})" if found else ""

    return [[UNITS[measure], *(f"{count} labelled" for count in counts)],
            *([arm, *(cell(arm, count) for count in counts)] for arm in arms)]


def ratios(result: dict) -> list[list[str]]:
    rows = [["", "against", "labelled", "seeds", *(f"{m.upper()}: ratio [95 % CI]" for m in MEASURES),
             "EF: Wilcoxon p", "EF"]]
    return rows + [[c["arm"], c["against"], str(c["labelled"]), str(len(c["seeds"])), *(
        words.interval(c[m]) for m in MEASURES), words.p_value(c["ef"]["wilcoxon_p"]), c["ef"]["verdict"]]
        for c in result["comparisons"]]


def draw(result: dict, file: Path):
    """RMSE by the number of labelled studies: a line for each arm's mean over the seeds, every seed a dot."""
    figure, (axes,) = figures.subplots(1, len(MEASURES), (14, 4.6))
    points = [p for p in result["points"] if p["labelled"]]
    arms: Mapping[str, None] = dict.fromkeys(p["arm"] for p in points)
    for axis, measure in zip(axes, MEASURES, strict=True):
        for i, arm in enumerate(arms):
            mine = [(p["labelled"], p[measure]["rmse"]) for p in points if p["arm"] == arm]
            counts = sorted({count for count, _ in mine})
            axis.plot(counts, [np.mean([e for c, e in mine if c == count]) for count in counts], color=f"C{i}",
                      label=arm, linewidth=1.5, linestyle="-" if arm.startswith(("RS", HYBRID)) else "--")
            axis.scatter(*zip(*mine, strict=True), s=12, color=f"C{i}", alpha=0.6)
        axis.set(xscale="log", xlabel="labelled studies", ylabel=f"RMSE of {UNITS[measure]}")
        axis.set_xticks(counts := sorted({p["labelled"] for p in points}), map(str, counts))
        axis.set_xticks([], minor=True)
        axis.set_ylim(bottom=0)
    axes[-1].legend(fontsize=7)
    figures.save(figure, file)


def seeds_of(points: list[dict]) -> list[int]:
    """How many seeds each arm has at each number of labelled studies."""
    return list(collections.Counter((p["arm"], p["labelled"]) for p in points).values())


def write(out: Path, result: dict) -> Path:
    """The figure (PNG, SVG) and label_curve.html."""
    draw(result, out / "label_curve.png")
    settings, config = result["settings"], result["settings"]["config"]
    checklist = claim.facts(
        goal="how errors fall with the number of labelled studies; exploratory but for the primary endpoint",
        datasets=[settings["dataset"], *settings.get("pretraining", ())], sfera=config["sfera"],
        others={name: config[key] for key, name in NETWORKS.items() if key in config},
        seeds=words.finished(seeds_of(result["points"]), config["seeds"]), drawn=result["drawn"],
        ensembles="a hybrid is the mean of two models",
        partitions=result["setting"], tested=f"{result['tested']} test studies", commit=settings["commit"])
    write_text(out / "label_curve.html", page(
        "label_curve.html", {"curve": out / "label_curve.svg"}, title="How many labelled studies does it take?",
        setting=result["setting"], preset=settings["preset"], commit=settings["commit"],
        seeds=config["seeds"], claim=claim.rows(checklist), sees=result["sees"], primary=primary_in_words(result),
        drawn=result["drawn"], verdicts=verdicts(result), tables=[table(result, m) for m in reversed(MEASURES)],
        ratios=ratios(result)))
    return out / "label_curve.html"
