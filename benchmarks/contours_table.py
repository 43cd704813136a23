"""The tables of docs/contours.md, out of the committed results: `python benchmarks/contours_table.py`."""

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ARMS = {"contours, fitted": "no SFERA: contours' volumes, fitted linearly to the training studies'",
        "as it is": "SFERA as it is", "areas as input": "contours' areas beside the BiLSTM's input",
        "decoder": "a decoder on the encoder"}
VOLUMES = {"contours_small_acdc": "contours", "sfera_small_acdc": "SFERA", "hybrid_small_acdc": "hybrid"}


def volumes(results: dict[str, dict]) -> str:
    """Errors on held-out studies, a row a model."""
    rows = ["| trained on 70 patients of `acdc:train`, tested on `acdc:test` (19) | EDV RMSE (bias), ml | ESV RMSE "
            "(bias), ml | EF RMSE, points | EF MAE [95 %], points | training |", "|---|---|---|---|---|---|"]
    for file, name in VOLUMES.items():
        r = results[file]
        low, high = r["ef"]["mae_ci95"]
        rows.append(f"| {name}, `{file}.json` | {r['edv']['rmse']:.1f} ({r['edv']['bias']:+.1f}) | "
                    f"{r['esv']['rmse']:.1f} ({r['esv']['bias']:+.1f}) | {r['ef']['rmse']:.1f} | {r['ef']['mae']:.1f} "
                    f"[{low:.1f}, {high:.1f}] | {r['training']} |")
    return "\n".join(rows)


def challenge(result: dict) -> str:
    """Errors against the challenge's own volumes, a row a reader."""
    rows = ["| `kaggle_dsb:test` (65 studies), against the challenge's volumes | EDV RMSE (bias), ml | ESV RMSE "
            "(bias), ml | EF RMSE, points | EF MAE [95 %], points |", "|---|---|---|---|---|"]
    for name, r in result["readers"].items():
        low, high = r["ef"]["mae_ci95"]
        rows.append(f"| {name} | {r['edv']['rmse']:.1f} ({r['edv']['bias']:+.1f}) | {r['esv']['rmse']:.1f} "
                    f"({r['esv']['bias']:+.1f}) | {r['ef']['rmse']:.1f} | {r['ef']['mae']:.1f} "
                    f"[{low:.1f}, {high:.1f}] |")
    return "\n".join(rows)


def read_by_sfera(result: dict) -> str:
    """Errors of SFERA with and without contours, means over the seeds."""
    rows = ["| `kaggle_dsb:test` | seeds | EDV RMSE (bias), ml | ESV RMSE (bias), ml | EF RMSE, points "
            "| EF MAE, points |", "|---|---|---|---|---|---|"]
    for arm in dict.fromkeys(row["arm"] for row in result["rows"]):
        seeds = [row for row in result["rows"] if row["arm"] == arm]
        mean = {key: sum(row[key] for row in seeds) / len(seeds) for key in seeds[0] if key[:2] in ("ed", "es", "ef")}
        count = "" if seeds[0]["seed"] is None else len(seeds)
        rows.append(f"| {ARMS[arm]} | {count} | {mean['edv_rmse']:.1f} ({mean['edv_bias']:+.1f}) | "
                    f"{mean['esv_rmse']:.1f} ({mean['esv_bias']:+.1f}) | {mean['ef_rmse']:.1f} | "
                    f"{mean['ef_mae']:.1f} |")
    return "\n".join(rows)


def masks(result: dict) -> str:
    """Dice and 95 % Hausdorff distance, a row a label and phase."""
    rows = ["| | Dice | base | middle | apex | HD95 (mm) | Dice before cleaning |", "|---|---|---|---|---|---|---|"]
    found, before = result["masks"], result["masks_before_cleaning"]
    for label in ("LV", "myocardium", "RV"):
        for phase in ("ed", "es"):
            key = f"{label}_{phase}"
            dice = [found[f"dice_{key}{level}"]["mean"] for level in ("", "_base", "_middle", "_apex")]
            rows.append(f"| {label}, {phase.upper()} | {' | '.join(f'{d:.3f}' for d in dice)} | "
                        f"{found[f'hd95_mm_{key}']['mean']:.1f} | {before[f'dice_{key}']['mean']:.3f} |")
    return "\n".join(rows)


def amounts(result: dict) -> str:
    """What else the masks say, a row an amount."""
    rows = ["| | RMSE | bias | r |", "|---|---|---|---|"]
    for name, said in (("rv_edv_ml", "RV EDV, ml"), ("rv_esv_ml", "RV ESV, ml"), ("lv_mass_g", "LV mass, g")):
        found = result["amounts"][name]
        rows.append(f"| {said} | {found['rmse']:.1f} | {found['bias']:+.1f} | {found['r']:.2f} |")
    return "\n".join(rows)


def phases(result: dict) -> str:
    """How many of the cines have ED and ES within one phase of the marked ones."""
    rows = ["| within one phase | ED | ES |", "|---|---|---|"]
    return "\n".join(rows + [f"| {name} | {found['ED']} | {found['ES']} |"
                             for name, found in result["within_one"].items()])


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def tables() -> list[str]:
    return [volumes({name: read(name) for name in VOLUMES}), masks(read("contours_small_acdc")),
            amounts(read("contours_small_acdc")), phases(read("ed_es")), challenge(read("kaggle_dsb_small")),
            read_by_sfera(read("sfera_with_contours"))]


if __name__ == "__main__":
    print("\n\n".join(tables()))
