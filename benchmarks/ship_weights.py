"""Trained runs → the models that come with the package, and their index.

    python benchmarks/ship_weights.py --contours runs/contours --sfera runs/sfera --hybrid runs/hybrid

Nothing ships that has learnt from data whose terms forbid it. The figures are those of `benchmarks/results/`, which the
cards in `docs/models/` quote.
"""

import argparse
import hashlib
import json
from pathlib import Path

from cardiojax.models.one_file import ENDING, write_one_file
from cardiojax.models.saved import opened
from cardiojax.models.shipped import FOLDER

MAY_SHIP = ("acdc:train", "acdc:validation", "phantom/dsb_like:train", "phantom/ukb_like:train")
RESULTS = Path(__file__).parent / "results"
DOES = {"contours": "LV, myocardium and RV in every frame; ED and ES of a cine",
        "sfera": "volumes by regression, no masks",
        "hybrid": "both; refers studies on which they disagree"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for task in DOES:
        parser.add_argument(f"--{task}", type=Path, required=True)
    args, index = parser.parse_args(), {}
    FOLDER.mkdir(exist_ok=True)
    for task, does in DOES.items():
        settings, arrays, _ = opened(getattr(args, task), task)
        entry = {"file": f"{task}-small{ENDING}", "task": task, "does": does}
        if task == "hybrid":
            arrays = {name: a for name, a in arrays.items() if name.startswith("blend/")}
            settings = {k: v for k, v in settings.items() if k not in ("contours", "sfera", "parents")}
            entry["parts"] = {part: f"{part}-small" for part in ("contours", "sfera")}
            learnt_from = settings["data"]["blend"]
        else:
            learnt_from = settings["data"]["training"]
        assert set(learnt_from.split(",")) <= set(MAY_SHIP), learnt_from
        assert "/" not in json.dumps(settings).replace("phantom/", ""), "a path of this machine is in the settings"
        write_one_file(FOLDER / entry["file"], settings, arrays, half=True)
        result = json.loads((RESULTS / f"{task}_small_acdc.json").read_text())
        index[f"{task}-small"] = entry | {
            "sha256": hashlib.sha256((FOLDER / entry["file"]).read_bytes()).hexdigest(),
            "command": result["commands"][0],
            "seed": settings.get("seed", 0), "commit": settings["commit"], "licence": "CC BY-NC-SA 4.0",
            "data": "ACDC, 70 patients" if task != "hybrid" else "as its parts; put together on 10 others of ACDC",
            "figures": {"on": f"{result['n']} others of ACDC", "ef_mae_points": result["ef"]["mae"],
                        "edv_rmse_ml": result["edv"]["rmse"], "esv_rmse_ml": result["esv"]["rmse"]}}
    (FOLDER / "index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"{sum(f.stat().st_size for f in FOLDER.iterdir()) / 1e6:.1f} MB in {FOLDER}")


if __name__ == "__main__":
    main()
