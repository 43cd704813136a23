"""The tables of docs/experiment.md, out of the experiment's JSON.

    python benchmarks/experiment_table.py [FILE]

RMSE on the test studies, means over the seeds, and the ratios of RMSE with their 95 % intervals.
"""

import argparse
import json
from pathlib import Path

from cardiojax.evaluate.metrics import MEASURES
from cardiojax.experiment.comparison import BASELINE, PRETRAINED, ordered
from cardiojax.experiment.words import interval

FILE = Path(__file__).parent / "results" / "experiment_small.json"
UNITS = ("EDV (ml)", "ESV (ml)", "EF (points)")


def baselines(experiment: dict) -> dict[str, dict]:
    """What an experiment was compared with, by name; older results name none: RSO."""
    found = dict(experiment.get("against_controls", {}))
    for against in (experiment[key] for key in ("against", "against_extra") if key in experiment):
        found[against.get("baseline", BASELINE)] = against
    return found


def markdown(result: dict) -> str:
    comparisons, masks = result["comparisons"], result["masks_own"]
    named = {d: name for d, name in zip(comparisons, ("DSB", "ACDC"), strict=True)}
    rows = [["", *(cell for d in comparisons for cell in (
        f"{named[d]}: seeds", *UNITS, f"EF, ratio to {BASELINE}"))]]
    for name in ordered(set().union(*comparisons.values())):
        found = [by[name] for by in comparisons.values()]
        rows.append([name, *(cell for f in found for cell in (
            str(len(f["summary"]["seeds"])), *(f"{f['summary'][m]['rmse']:.1f}" for m in MEASURES),
            interval(baselines(f)[BASELINE]["ef"]) if name != BASELINE else ""))])
    rows += [[f"masks, {reading}", *(cell for d in comparisons for cell in (
        "", *(f"{masks[d][reading][m]['rmse']:.1f}" for m in MEASURES), ""))] for reading in ("as they are", "fitted")]
    direct = [["ratio of RMSE", "seeds", *("EDV", "ESV", "EF"), "verdict on EF"]]
    for d, by in comparisons.items():
        for baseline, against in sorted(baselines(by[PRETRAINED]).items()):
            direct.append([f"{named[d]}: {PRETRAINED} over {baseline}", str(len(against["seeds"])),
                           *(interval(against[m]) for m in MEASURES), against["ef"]["verdict"]])
    return "\n\n".join("\n".join("| " + " | ".join(row) + " |" for row in (
        table[0], ["---"] * len(table[0]), *table[1:])) for table in (rows, direct))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    print(markdown(json.loads(parser.parse_args().file.read_text())))


if __name__ == "__main__":
    main()
