"""The cards of the models that ship (docs/models/), out of their index and the committed results.

    python benchmarks/model_cards.py
"""

import json
import runpy
import textwrap
from pathlib import Path

from cardiojax.models.shipped import index

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GROUPS = runpy.run_path(str(ROOT / "benchmarks" / "by_group.py"))["markdown"]
WHAT = {
    "contours": """Two U-Nets look at each frame: one finds the heart at 2 mm, one labels LV, myocardium and RV in 128
× 128 mm round it at 1 mm. Volumes are sums of probabilities; in a cine every phase is measured and
the volume curve says which are ED and ES. [How it works](../contours.md).""",
    "sfera": """A convolutional network and a BiLSTM over the slices regress EDV and ESV from two frames, ED and ES,
at 2 mm (the paper's network, with our changes: [presets](../presets.md)). It sees no masks: of a
cine it takes the two phases that differ most.""",
    "hybrid": """`contours-small` and `sfera-small` together: each volume is a mean with the share that had the least
error on 10 patients that neither was trained on. Masks, phases and curves are the contours'. Its
worth is the second opinion: a study is referred where the two disagree."""}
TRAINED = """{data} (Bernard et al. 2018): one hospital, Siemens scanners of 1.5 T and 3 T, five groups of equal
size. The images carry CC BY-NC-SA 4.0, and so do these weights. Prepared as by `cardiojax build
acdc`: 1 mm, 150 × 150 pixels round what moves, grey values cut at the study's 3 and 97 %."""
UNSEEN = """Children, implants, arrhythmia, free-breathing or real-time cines, congenital disease, other makers'
scanners and other field strengths; perfusion, LGE or maps in place of a cine. By scanner nothing is
known: ACDC does not say which patient lay in which."""
FAILURES = {
    "contours": ("the LV's Dice falls towards the apex",
                 "a stack whose base was not acquired cannot be told from a whole one",
                 "one image a frame is looked at by itself: a slice of bad quality is not mended by its neighbours"),
    "sfera": ("volumes far from ACDC's are drawn towards its mean",
              "another spacing of slices or another maker's contrast was never seen",
              "with 70 patients its errors are three times the contours'; it is here as a second opinion"),
    "hybrid": ("those of `contours-small`", "its shares were fitted on 10 patients")}


def card(name: str) -> str:
    entry = index()[name]
    task = entry["task"]
    result = json.loads((RESULTS / f"{task}_small_acdc.json").read_text())
    groups = json.loads((RESULTS / f"by_group_{task}_small_acdc.json").read_text())
    low, high = result["ef"]["mae_ci95"]
    lines = [f"# {name}", "", wrapped(WHAT[task]), "", "## Trained on", "", wrapped(TRAINED.format(**entry)), "",
             "```sh",
             *result["commands"], "```", "", f"Seed {entry['seed']}, commit `{entry['commit'][:12].rstrip('+')}`, "
             f"{result['training']} on {result['device']}.", "", "## On patients it has not seen", "",
             f"{result['n']} patients of `acdc:test` (`benchmarks/results/{task}_small_acdc.json`):", "",
             "| | RMSE | bias | limits of agreement | r |", "|---|---|---|---|---|"]
    for measure, unit in (("edv", "EDV, ml"), ("esv", "ESV, ml"), ("ef", "EF, points")):
        m = result[measure]
        lines.append(f"| {unit} | {m['rmse']:.1f} | {m['bias']:+.1f} | {m['loa'][0]:+.1f} … {m['loa'][1]:+.1f} | "
                     f"{m['r']:.3f} |")
    lines += ["", f"EF's mean absolute error is {result['ef']['mae']:.1f} points, 95 % interval "
              f"[{low:.1f}, {high:.1f}].", "",
              "By group (`benchmarks/by_group.py`; three or four patients each, so read them as cases):", "",
              GROUPS(groups), ""]
    if task != "sfera":
        lines += ["One study of another maker (GE, 11 slices × 20 phases) was read with an EF of "
                  f"{gold()['ef_percent']:.1f} %, by hand {gold()['ef_percent_marked']:.1f} %.", ""]
    lines += ["## What it has not seen", "",
              wrapped(UNSEEN), "", "## Known failures", "", *(f"- {line}" for line in FAILURES[task]), "",
              "For research. Not a medical device.", ""]
    return "\n".join(lines)


def wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def gold() -> dict:
    return json.loads((RESULTS / "ed_es.json").read_text())["cines"][0]


def main():
    for name in index():
        (ROOT / "docs" / "models" / f"{name}.md").write_text(card(name))


if __name__ == "__main__":
    main()
