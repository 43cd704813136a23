"""The tables of docs/experiment.md are what benchmarks/experiment_table.py prints of the committed results."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "experiment_table.py"))


def test_the_page_has_the_committed_results():
    tables = SCRIPT["markdown"](json.loads(SCRIPT["FILE"].read_text()))
    page = (ROOT / "docs" / "experiment.md").read_text()
    assert tables in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    others = [*label_rows(read("label_curve_kaggle_dsb")), *privacy_rows(read("privacy_acdc"))]
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


def privacy_rows(result: dict) -> list[str]:
    real, names = result["held_out"], ("GauGAN", "GauGAN with the contour loss", "warped images")
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
