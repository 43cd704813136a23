"""The tables of docs/experiment.md are what benchmarks/experiment_table.py prints of the committed results."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from cardiojax.evaluate.metrics import agreement
from cardiojax.experiment import few_annotated, label_curve, words

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "experiment_table.py"))


def test_the_page_has_the_committed_results():
    tables = SCRIPT["markdown"](json.loads(SCRIPT["FILE"].read_text()))
    page = (ROOT / "docs" / "experiment.md").read_text()
    assert tables in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    others = [*label_rows(read("label_curve_kaggle_dsb")), *few_annotated_rows(read("label_cells_acdc"), page),
              *privacy_rows(read("privacy_acdc"))]
    assert [row for row in rows if "---" not in row] == [
        *(line for line in tables.splitlines() if line and "---" not in line), *others]       # and no other table


def read(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def label_rows(result: dict) -> list[str]:
    """EF and EDV of seed 0, an arm a row."""
    of = {(p["arm"], p["labelled"]): f"{p['ef']['rmse']:.1f} / {p['edv']['rmse']:.1f}"
          for p in result["points"] if p["seed"] == 0}
    counts, arms = sorted({count for _, count in of}), dict.fromkeys(arm for arm, _ in of)
    return [f"| EF / EDV, RMSE | {' | '.join(f'{count} labelled' for count in counts)} |",
            *(f"| {arm} | {' | '.join(of.get((arm, count), '') for count in counts)} |" for arm in arms)]


def few_annotated_rows(content: dict, page: str) -> list[str]:
    """Of 8 labelled studies: errors of each fold, and their ratios to RSO's over all of them."""
    curve: dict = {}
    for cell in content["cells"]:
        curve.setdefault(cell["arm"], {}).setdefault(cell["labelled"], {})[cell["seed"]] = {
            "predicted": np.array(cell["predicted"]), "truth": np.array(content["truth"][str(cell["seed"])])}
    ratios = {(c["arm"], c["against"]): c for c in label_curve.compared(curve, few_annotated.WARP, pooled=True)
              if c["labelled"] == 8}
    main = ratios[few_annotated.GAUGAN, "RSO"]["ef"]
    assert f"ratio is {words.interval(main)}." in page
    assert main["verdict"] == "not decided"
    assert f"over theirs {words.interval(ratios[few_annotated.GAUGAN, few_annotated.WARP]['ef'])})" in page

    def row(arm: str) -> str:
        edv, ef = (", ".join(f"{agreement(of['predicted'][:, k], of['truth'][:, k])['rmse']:.1f}"
                             for _, of in sorted(curve[arm][8].items())) for k in (0, 2))
        of_edv, of_ef = (f" {words.interval(ratios[arm, 'RSO'][m])} " if arm != "RSO" else " " for m in ("edv", "ef"))
        return f"| {arm} | {ef} |{of_ef}| {edv} |{of_edv}|"

    arms = ("RSO", few_annotated.GAUGAN, few_annotated.WARP, few_annotated.CONTOURS, "hybrid", few_annotated.HYBRID_RSO,
            "RSO-paper")
    return ["| 8 studies shown | EF RMSE (points), each fold | EF, ratio to RSO | EDV RMSE (ml), each fold | EDV, "
            "ratio to RSO |", *map(row, arms)]


def privacy_rows(result: dict) -> list[str]:
    real, names = result["held_out"], ("GauGAN", "GauGAN of both phases", "warped images")
    return ["| | median | 5th percentile | nearer than the nearest 5 % of real held-out images | the nearest is its "
            "own patient's |",
            f"| real images of patients held out | {real['percentile_50']:.3f} | {real['percentile_5']:.3f} | 5 % | |",
            *(f"| {name} | {m['percentile_50']:.3f} | {m['percentile_5']:.3f} | "
              f"{m['nearer_than_5_percent_of_held_out']:.0%} | {m['own_patient_is_nearest']:.0%} |".replace("%", " %")
              for name, m in zip(names, result["cohorts"].values(), strict=True))]


def test_older_and_newer_results_are_told_apart():
    """A baseline without a name is RSO, of results from before RSO-long was the main one."""
    ratio = {"ef": {"rmse_ratio": 1.0}}
    assert SCRIPT["baselines"]({"against": ratio, "against_controls": {"RSO-long": ratio}}) == {
        "RSO": ratio, "RSO-long": ratio}
    named = [{"baseline": b, **ratio} for b in ("RSO-long", "RSO")]
    assert SCRIPT["baselines"]({"against": named[0], "against_extra": named[1]}) == {
        "RSO-long": named[0], "RSO": named[1]}


@pytest.mark.parametrize("dataset", ["kaggle_dsb", "acdc"])
def test_the_numbers_are_the_files(dataset):
    """One row by hand: RSP's seeds and the EF it leaves."""
    found = json.loads(SCRIPT["FILE"].read_text())["comparisons"][dataset]["RSP"]
    row = next(line for line in SCRIPT["markdown"](json.loads(SCRIPT["FILE"].read_text())).splitlines()
               if line.startswith("| RSP |"))
    assert f"{found['summary']['ef']['rmse']:.1f} | {found['against']['ef']['rmse_ratio']:.2f} [" in row
