"""docs/contours.md has the tables that benchmarks/contours_table.py prints of the committed results."""

import json
import runpy
from pathlib import Path

from cardiojax.models import shipped

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "contours_table.py"))
PAGE = (ROOT / "docs" / "contours.md").read_text()


def test_the_page_has_the_committed_results():
    for table in SCRIPT["tables"]():
        assert table in PAGE


def test_its_sentences_are_the_files():
    contours, hybrid, cines = (SCRIPT["read"](name) for name in ("contours_small_acdc", "hybrid_small_acdc", "ed_es"))
    assert f"of {contours['amounts']['edv_counted_ml']['rmse']:.1f} ml and an ESV RMSE of " \
           f"{contours['amounts']['esv_counted_ml']['rmse']:.1f} ml" in PAGE
    assert f"EF is {cines['cines'][0]['ef_percent']:.1f} %, by hand contours " \
           f"{cines['cines'][0]['ef_percent_marked']:.1f} %" in PAGE
    assert contours["ef"]["mae"] <= 2.5                       # the aim of this preset, with 70 patients
    assert contours["edv"]["rmse"] <= 6
    assert hybrid["n"] == contours["n"] == 19
    readme = (ROOT / "README.md").read_text()
    for name in ("contours_small_acdc", "sfera_small_acdc"):
        found = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        row = next(line for line in readme.splitlines() if f"`{name}.json`" in line)
        for measure in ("edv", "esv", "ef"):
            assert f"**{found[measure]['rmse']:.1f}** ({found[measure]['rmse_mean_predictor']:.1f})" in row


def test_the_cards_are_the_files():
    """docs/models/ is what benchmarks/model_cards.py makes of the index and the results."""
    cards = runpy.run_path(str(ROOT / "benchmarks" / "model_cards.py"))
    for name in shipped.index():
        page = ROOT / "docs" / "models" / f"{name}.md"
        assert page.read_text() == cards["card"](name), "run: python benchmarks/model_cards.py"
