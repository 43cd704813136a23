"""Models that ship, and models as one file: found by name, whole, and with the numbers that the index claims."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import cardiojax
from cardiojax import phantom
from cardiojax.cli.main import main
from cardiojax.errors import RunError
from cardiojax.models import shipped
from cardiojax.models.one_file import read_one_file, write_one_file

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def optimised():
    """Networks of their full size take longer to run than to compile."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def study():
    return phantom.prepared_study("dsb_like", 0)


@pytest.mark.parametrize("name", ["contours-small", "sfera-small", "hybrid-small"])
def test_a_model_that_ships_measures(name, study):
    p = cardiojax.load(name).predict(study)
    assert p.model == name
    assert 0 < p.esv_ml < p.edv_ml < 400
    assert name in shipped.index()


def test_the_index_is_that_of_the_files_and_of_the_results():
    """Files, size, licence, and figures that are those of the committed evaluations."""
    index = shipped.index()
    assert {entry["file"] for entry in index.values()} | {"index.json", "LICENSE"} == {
        f.name for f in shipped.FOLDER.iterdir()}
    assert sum(f.stat().st_size for f in shipped.FOLDER.iterdir()) < 9e6
    for name, entry in index.items():
        result = json.loads((ROOT / "benchmarks" / "results" / f"{entry['task']}_small_acdc.json").read_text())
        assert entry["figures"]["ef_mae_points"] == result["ef"]["mae"]
        assert entry["figures"]["edv_rmse_ml"] == result["edv"]["rmse"]
        assert entry["command"] == result["commands"][0]
        assert entry["licence"] in (shipped.FOLDER / "LICENSE").read_text()
        settings, _ = shipped.read_shipped(name)
        assert str(ROOT) not in json.dumps(settings)
        assert (ROOT / "docs" / "models" / f"{name}.md").exists()


def test_a_damaged_model_is_refused(tmp_path, monkeypatch):
    shutil.copytree(shipped.FOLDER, tmp_path / "weights")
    file = tmp_path / "weights" / "contours-small.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    with pytest.raises(RunError, match=r"contours-small\.safetensors is damaged"):
        cardiojax.load("contours-small")
    cardiojax.load("sfera-small")
    file.unlink()
    with pytest.raises(RunError, match="cannot be read"):
        cardiojax.load("hybrid-small")                         # one of its parts


def test_one_file_holds_a_run(tmp_path, study, capsys):
    """A file alone gives the model's numbers; in half precision to a tenth of a millilitre."""
    whole = cardiojax.load("hybrid-small")
    assert main(["export", "hybrid-small", str(tmp_path / "h.safetensors")]) == 0
    assert "sha256" in capsys.readouterr().out
    again = cardiojax.load(tmp_path / "h.safetensors")
    assert again.name == "h"
    for name, a in whole.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], a, err_msg=name)
    assert main(["export", str(tmp_path / "h.safetensors"), str(tmp_path / "half.safetensors"), "--half"]) == 0
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "h.safetensors").stat().st_size
    p, q = whole.predict(study), cardiojax.load(tmp_path / "half.safetensors").predict(study)
    assert q.edv_ml == pytest.approx(p.edv_ml, abs=0.1)
    assert q.ef_percent == pytest.approx(p.ef_percent, abs=0.1)
    assert main(["export", "hybrid-small", str(tmp_path / "h.npz")]) == 2
    assert main(["show", "contours-small"]) == 0


def test_what_is_no_model_is_refused_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(RunError, match=r"text\.safetensors cannot be read"):
        cardiojax.load(tmp_path / "text.safetensors")
    write_one_file(tmp_path / "other.safetensors", {"format": 99}, {"a": np.zeros(2, np.float32)})
    with pytest.raises(RunError, match="run format 99"):
        cardiojax.load(tmp_path / "other.safetensors")
    with pytest.raises(RunError, match="nor a model that ships"):
        cardiojax.load("contours-huge")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match=r"pip install 'cardiojax\[hub\]'"):
        cardiojax.load("hf://someone/models/contours.safetensors")


def test_scalars_stay_scalars(tmp_path):
    arrays = {"a": np.float32(0.5), "b": np.arange(3), "c": np.full((2, 2), 1e6, np.float32)}
    write_one_file(tmp_path / "m.safetensors", {}, {k: np.asarray(v) for k, v in arrays.items()}, half=True)
    _, found = read_one_file(tmp_path / "m.safetensors")
    for name, a in arrays.items():
        np.testing.assert_array_equal(found[name], a)          # 1e6 does not fit into half precision and stays whole
        assert found[name].shape == np.shape(a)


def test_a_model_comes_from_the_hub(tmp_path):
    """From a cache as the hub's client leaves it, offline."""
    below = tmp_path / "models--someone--models"
    (below / "refs").mkdir(parents=True)
    (below / "refs" / "main").write_text("0123abc")
    (below / "snapshots" / "0123abc").mkdir(parents=True)
    shutil.copy(shipped.FOLDER / "sfera-small.safetensors", below / "snapshots" / "0123abc" / "mine.safetensors")
    program = ("import cardiojax\n"
               "print(cardiojax.load('hf://someone/models/mine.safetensors').name)\n"
               "try: cardiojax.load('hf://someone/models/other.safetensors')\n"
               "except cardiojax.errors.RunError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT,
                          env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    first, second = done.stdout.strip().splitlines()
    assert first == "mine"
    assert second.startswith("hf://someone/models/other.safetensors cannot be had")


@pytest.mark.shared
def test_another_makers_cine_by_the_model_that_ships(shared, tmp_path):
    """EF within 3 points of the hand-drawn contours', nothing named."""
    assert main(["predict", str(shared / "cine" / "ge" / "SCD0000401"), "--csv", str(tmp_path / "v.csv")]) == 0
    header, row = (line.split(",") for line in (tmp_path / "v.csv").read_text().splitlines())
    assert float(dict(zip(header, row, strict=True))["ef_percent"]) == pytest.approx(33.0, abs=3)


def test_the_demo_measures_a_folder_as_a_scanner_leaves_it(tmp_path, capsys):
    """Of 283 files in 15 series the short-axis cine is measured, a file that is cut off costs nothing but a word, and
    the page is there."""
    assert main(["demo", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "283 DICOM files of a phantom, in 15 series" in said.out
    assert "left out: 1 'localizer'" in said.err
    assert "the mean of its neighbours stands for an unreadable image" in said.err
    assert "cardiojax predict FOLDER" in said.out
    assert "<svg" in (tmp_path / "report" / "patient.html").read_text()
    assert len(list((tmp_path / "masks").iterdir())) == 2
    assert ",contours-small," in (tmp_path / "volumes.csv").read_text()          # where no other is named
    assert main(["models"]) == 0
    assert "hybrid-small" in capsys.readouterr().out


def test_the_doctor_says_what_is_there_and_measures(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("jax ", "devices       cpu (cpu)", "extras        compressed",
                 "self-test     a phantom study from DICOM: EDV"):
        assert word in said
    monkeypatch.setattr(shipped, "FOLDER", Path("nowhere"))
    assert main(["doctor"]) == 1
    assert "self-test     failed: RunError" in capsys.readouterr().out


@pytest.fixture
def opened_in_a_browser(tmp_path):
    """(page, its width in pixels) → its DOM as headless Chromium has it, with the width that it takes as its title."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here")

    def opened(page: Path, width_px: int) -> str:
        copy = page.with_name(f"copy_{page.name}")
        copy.write_text(page.read_text() + "<script>document.title = document.documentElement.scrollWidth</script>")
        try:
            done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                                   f"--user-data-dir={tmp_path}/b", f"--window-size={width_px},900", copy.as_uri()],
                                  capture_output=True, text=True, check=False, timeout=60)
        except subprocess.TimeoutExpired:
            pytest.skip("Chromium does not start here")
        if done.returncode or "<html" not in done.stdout:
            pytest.skip("Chromium does not start here")
        return done.stdout
    return opened


def test_the_pages_fit_a_phone_and_a_screen(tmp_path, opened_in_a_browser):
    """The narrowest window of headless Chromium has 500 pixels."""
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    for name, says in (("index", "patient.html"), ("patient", "End-diastolic volume")):
        for width_px in (500, 1280):
            dom = opened_in_a_browser(tmp_path / "demo" / "report" / f"{name}.html", width_px)
            assert says in dom
            assert int(re.search(r"<title>(\d+)</title>", dom)[1]) <= width_px, name
