"""The CLAIM checklist as far as a run can fill it in; the rest is for whoever publishes it.

Tejani et al. 2024, "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update"; its 44 items
in short.
"""

import csv
from collections.abc import Mapping, Sequence
from importlib.resources import files

from cardiojax.provenance import versions

OPEN = "for the authors to say"


def rows(facts: Mapping[int, str]) -> list[list[str]]:
    """A row for each item: number, what it asks for, what is known of it."""
    with files(__package__).joinpath("claim_2024.csv").open(encoding="utf8", newline="") as stream:
        return [["CLAIM 2024", "asks for", "this run"],
                *([row["item"], row["asks for"], facts.get(int(row["item"]), OPEN)] for row in csv.DictReader(stream))]


def facts(*, goal: str, datasets: Sequence[str], sfera: Mapping, others: Mapping[str, Mapping], seeds: str, drawn: str,
          ensembles: str, partitions: str, tested: str, commit: str) -> dict[int, str]:
    """What every experiment with SFERA knows, by item. sfera: its settings; others: those of the other networks, by
    name; seeds: how many there are; drawn: by the bootstrap; partitions: how studies came to them."""
    net, augment = sfera["net"], sfera["augment"]
    besides = "".join(f"; {name}, {c['steps']:,} updates of {c['batch']}" for name, c in others.items())
    return {
        5: "retrospective: the datasets were recorded before",
        6: goal,
        7: ", ".join(datasets),
        8: "studies that could be read, with ED, ES and volumes; exclusions.csv beside the records names the others",
        9: "1 mm pixels, 150 × 150 about the heart, grey values cut at percentiles and scaled to 0–255",
        10: "short-axis cines, every slice from base to apex, ED and ES",
        11: "records hold images, masks, volumes and the dataset's study ids, nothing else of a patient",
        12: "studies without volumes, ED or ES are left out by name",
        14: "EDV, ESV and EF as each dataset gives them, or by Simpson's rule from its masks",
        19: partitions,
        20: "patients",
        21: f"no power analysis; {tested}",
        22: f"SFERA: {net['blocks']} residual blocks from {net['width']} channels at {net['size_px']} pixels, "
            f"bidirectional LSTM of {net['lstm_features']}, readout {net['readout']!r}"
            + "".join(f"; {name}" for name in others) + "; all settings stand in the run's JSON",
        23: ", ".join(f"{name} {version}" for name, version in versions().items()),
        24: "random by seed, or those of the pretraining",
        25: f"RAdam, {sfera['learning_rate']:g} decayed along half a cosine, batches of {sfera['batch']}; turned by up "
            f"to {augment['rotation_deg']:g}°, shifted by {augment['shift_mm']:g} mm, scaled by {augment['scale']:.0%}"
            + besides,
        26: "the last weights" + (", averaged over steps" if sfera["ema"] else "") if sfera["keep"] == "last" else
            "the evaluation with the lowest error of the validation studies",
        27: "; ".join(filter(None, (sfera["views"] > 1 and f"{sfera['views']} views of a study averaged", ensembles)))
            or "none",
        28: "RMSE, MAE, bias and Pearson's r of EDV, ESV (ml) and EF (points)",
        29: f"95 % intervals of the ratio of RMSE by a bootstrap of {drawn}; Wilcoxon's and Kruskal–Wallis' "
            "tests; one primary endpoint, no correction of the others",
        30: seeds,
        37: "above, with intervals",
        42: f"commit {commit}" if commit else "an installed version, see the software",
        43: "cardiojax is open source (Apache 2.0); the stages' folders hold the trained models"}
