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
    assert rows == [line for line in tables.splitlines() if line]              # and no other table


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
