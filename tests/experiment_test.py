"""The experiment: stopped and started again it ends in the same numbers, and redoes only what it must; its report."""

import concurrent.futures
import csv
import dataclasses
import hashlib
import json
import re
import shutil
import time

import numpy as np
import pytest

from cardiojax.cli.main import main
from cardiojax.experiment import folders, stages
from cardiojax.experiment import run as experiment
from cardiojax.experiment.comparison import masks_own
from cardiojax.experiment.config import EXPERIMENT_PRESETS
from cardiojax.study import ED, ES, Study
from cardiojax.units import LV
from conftest import undrawn
from tests.oracle import Oracle

CONFIG = dataclasses.replace(EXPERIMENT_PRESETS["tiny"], seeds=2, ablations=True)


@pytest.fixture
def work(monkeypatch):
    """Stands in for trainings and cohorts: each leaves a number that follows from all that it was given. Stops where
    `stop_at` of them are made."""
    made, stop_at = [], [None]

    def leave(folder, *given):
        if len(made) == stop_at[0]:
            raise KeyboardInterrupt
        time.sleep(0.02)
        made.append((folder.parent if folder.name == "1.0.0" else folder).name.rpartition("_")[0])
        folder.mkdir(parents=True)
        (folder / "value").write_text(hashlib.sha256(repr(given).encode()).hexdigest()[:8])

    def value(folder):
        return folder and (folder / "value").read_text()

    def train(config, *, run, seed, training, init=None, judge=None, data_dir, **_):
        records = data_dir.parent / "data" / training.partition(":")[0] / "1.0.0"
        leave(run, config.steps, seed, value(init), value(judge),
              value(records) if training.startswith("synthetic") else training)

    monkeypatch.setattr(stages.sfera, "train", train)
    monkeypatch.setattr(stages.gaugan, "train", train)
    monkeypatch.setattr(stages, "load", value)
    monkeypatch.setattr(stages, "GauganModel", str)
    monkeypatch.setattr(stages, "write_half", lambda training, cohort, folder: leave(folder, training, value(cohort)))
    monkeypatch.setattr(stages, "build_cohort", lambda generator, splits, folder, settings, real_ef: leave(
        folder, generator, settings))
    monkeypatch.setattr(stages.data, "open_split", lambda spec, folder, real=stages.data.open_split: (
        spec.partition(":")[2] if spec.startswith("synthetic") else real(spec, folder)))
    monkeypatch.setattr(stages.Stages, "evaluated", lambda self, run, split: {
        "ef": {"rmse": int(value(run), 16)}, "run": str(run), "of": split if isinstance(split, str) else split.name})
    monkeypatch.setattr(experiment, "compare", lambda out, datasets: {})
    monkeypatch.setattr(experiment.experiment_report, "write", lambda *_: None)
    return made, stop_at


def test_stopped_is_unstopped_and_a_change_redoes_what_depends_on_it(two_datasets, tmp_path, work):
    made, stop_at = work

    def go(out, config=CONFIG):
        return experiment.run(config, preset="tiny", first="phantom/dsb_like", second="phantom/ukb_like",
                              data_dir=two_datasets, out=tmp_path / out)

    whole, names = go("whole"), made.copy()
    assert len(names) == len(set(names))
    assert json.loads((tmp_path / "whole" / "experiment.json").read_text()) == whole
    for results in whole["datasets"].values():
        assert {e: len(seeds) for e, seeds in results.items()} == {
            "RSO": 2, "RSO-long": 2, "RSA": 2, "SSO": 1, "RSP": 2, "SSO-half": 1, "RSP-half": 1, "SSO-as_first": 1,
            "RSP-as_first": 1, "SSO-warp": 1, "RSP-warp": 2}
        assert len({m["ef"]["rmse"] for seeds in results.values() for m in seeds}) == 16       # none is a copy
        assert {e: seeds[0]["updates"] for e, seeds in results.items()} == {
            "RSO": 120, "RSA": 120, **{e: 120 for e in results if e.startswith("SSO")},
            "RSO-long": 240, **{e: 240 for e in results if e.startswith("RSP")}}

    for stop_at[0] in (2, 9):
        made.clear()
        with pytest.raises(KeyboardInterrupt):
            go(f"stopped{stop_at[0]}")
        stop, stop_at[0] = stop_at[0], None
        assert go(f"stopped{stop}") == whole
        assert made == names

    for change, redone in ({"finetuning_rate": 1e-4}, ("rsp",)), ({"finetuning_steps": 7}, ("rsp", "long")):
        made.clear()
        go("whole", dataclasses.replace(CONFIG, **change))
        assert made == [n for n in names if n.startswith(redone)]
    made.clear()
    go("whole", dataclasses.replace(CONFIG, seeds=3))
    assert sorted(made) == sorted(["rsa_2", *(
        f"{c}_phantom_{d}_2" for c in ("rso", "long", "rsp_uniform", "rsp_warp") for d in ("dsb_like", "ukb_like"))])


def test_rsa_is_validated_on_both_datasets(two_datasets, tmp_path, monkeypatch):
    seen = []

    def train(config, *, run, validation, **_):
        run.mkdir(parents=True)
        seen.append(validation)

    monkeypatch.setattr(stages.sfera, "train", train)
    made = stages.Stages(CONFIG, "tiny", "phantom/dsb_like", "phantom/ukb_like", two_datasets, tmp_path)
    made.rsa(0)
    made.rso("phantom/ukb_like", 0)
    assert seen == ["phantom/dsb_like:validation,phantom/ukb_like:validation", "phantom/ukb_like:validation"]


def test_processes_share_the_stages(two_datasets, tmp_path, work, monkeypatch):
    """Threads here; a lock on a file does not tell them from processes."""
    made, _ = work
    monkeypatch.setattr(folders, "POLL_S", 0.01)

    def go(out):
        return experiment.run(CONFIG, preset="tiny", first="phantom/dsb_like", second="phantom/ukb_like",
                              data_dir=two_datasets, out=tmp_path / out)

    whole, names = go("alone"), sorted(made)
    made.clear()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(go, ["together"] * 3))
    assert found == [whole] * 3
    assert sorted(made) == names
    assert json.loads((tmp_path / "together" / "experiment.json").read_text()) == whole


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_judge_is_not_the_network_whose_features_are_matched(two_datasets, tmp_path, work, monkeypatch, seeds):
    """Another seed on the same studies, trained as RSO's second seed where there is one; the old judge was the network
    that the generator was trained against."""
    given, train = {}, stages.gaugan.train
    monkeypatch.setattr(stages.gaugan, "train", lambda config, **words: (
        given.update(words, perceptual=config.perceptual), train(config, **words)))
    config = dataclasses.replace(CONFIG, seeds=seeds, ablations=False)
    found = experiment.run(config, preset="tiny", first="phantom/dsb_like", second="phantom/ukb_like",
                           data_dir=two_datasets, out=tmp_path)
    features, judge = (tmp_path / found["stages"][f"rso_phantom_dsb_like_{seed}"] for seed in (0, 1))
    assert given["perceptual"] == f"sfera:{features}"
    assert given["judge"] == judge != features
    assert len(found["datasets"]["phantom/dsb_like"]["RSO"]) == seeds
    made_from = json.loads((judge / "stage.json").read_text())["made_from"]
    assert made_from == json.loads((features / "stage.json").read_text())["made_from"] | {"seed": 1}


def test_the_half_is_drawn_from_the_main_cohort(two_datasets, tmp_path, work, monkeypatch):
    """Not a cohort of its own of half the size."""
    halved = []
    monkeypatch.setattr(stages, "write_half", lambda training, cohort, folder, write=stages.write_half: (
        halved.append((training, cohort)), write(training, cohort, folder)))
    found = experiment.run(CONFIG, preset="tiny", first="phantom/dsb_like", second="phantom/ukb_like",
                           data_dir=two_datasets, out=tmp_path)
    assert halved == [("train", tmp_path / found["stages"]["uniform"])]


def test_what_the_masks_themselves_miss():
    """Two slices 8 mm apart, rectangles of 20 and 10 rows; the truth is twice their volumes and 3 ml."""
    def study(i, masked=True):
        masks = np.zeros((2, 150, 150, 2), np.uint8)
        ed, es = 50 + i, 50 + 7 * (i % 3)
        masks[:, :20, :ed, ED] = masks[:, :10, :es, ES] = LV
        return Study(study_id=str(i), frames=masks, masks=masks if masked else None, slice_spacing_mm=8.0,
                     volumes_ml=2 * np.array([2 * 20 * ed, 2 * 10 * es]) * 8 / 1000 + 3)

    class Studies(list):
        study = list.__getitem__

    test = Studies([*map(study, range(6)), study(6, masked=False)])
    found = masks_own(Studies(map(study, range(5, 12))), test)
    assert {reading: m["n"] for reading, m in found.items()} == {"as they are": 6, "fitted": 6}
    assert found["as they are"]["edv"]["bias"] == pytest.approx(-np.mean([0.32 * (50 + i) + 3 for i in range(6)]))
    assert found["fitted"]["ef"]["rmse"] == pytest.approx(0, abs=1e-6)
    assert masks_own(Studies(map(study, range(5, 12))), Studies(map(study, range(4)))) == {}


def oracle(run) -> Oracle:
    """Pretraining halves the error."""
    return Oracle(run, 0.1 if run.name.startswith("rsp_uniform") else 0.2)


@pytest.mark.slow
def test_the_report_says_what_was_found(two_datasets, tmp_path, monkeypatch, pictures_of):
    def train(config, *, run, **_):
        run.mkdir(parents=True)
        lines = [{"step": i, "kind": "train", "volume_rmse": 1 / i} for i in (1, 2)]
        watched = {f"{m}_{k}": 1.0 for m in ("edv", "esv", "ef") for k in ("rmse", "r", "rmse_mean_predictor")}
        lines.append({"step": 2, "kind": "validation", **watched})
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        np.savez(run / "model.npz", **{"params/a": np.zeros(1234), "calibration/factor": np.array([2.0, 2, 2]),
                                       "calibration/far": np.array(1.0)})

    def paint(generator, splits, folder, *_):
        shutil.copytree(two_datasets / "phantom" / "dsb_like" / "1.0.0", folder)

    for module in (experiment, stages):
        monkeypatch.setattr(module, "ABLATIONS", ("warp",))
    for module in ("sfera", "gaugan"):
        monkeypatch.setattr(getattr(stages, module), "train", train)
    monkeypatch.setattr(stages, "build_cohort", paint)
    monkeypatch.setattr(stages, "GauganModel", Oracle)
    monkeypatch.setattr(folders, "load_measuring", oracle)
    monkeypatch.setattr(stages, "load", oracle)
    undrawn(monkeypatch)
    words = ["experiment", "--preset", "tiny", "--first", "phantom/dsb_like", "--second", "phantom/ukb_like",
             "--data-dir", str(two_datasets), "--out", str(tmp_path)]
    assert main([*words, "--report-only"]) == 2                     # nothing is there yet
    assert main([*words, "--ablations"]) == 0

    result = json.loads((tmp_path / "experiment.json").read_text())
    found = result["comparisons"]["phantom/dsb_like"]
    assert found["RSP"]["against"]["esv"]["rmse_ratio"] == pytest.approx(0.5, abs=0.01)
    assert (found["RSP"]["against"]["baseline"], found["RSP"]["updates"]) == ("RSO-long", 240)
    assert (found["RSP"]["against_extra"]["baseline"], found["RSO"]["updates"]) == ("RSO", 120)
    assert found["SSO"]["against"]["baseline"] == "RSO"
    endpoint = result["primary_endpoint"]
    assert {k: endpoint[k] for k in ("dataset", "measure", "experiment", "baseline")} == {
        "dataset": "phantom/dsb_like", "measure": "ef", "experiment": "RSP", "baseline": "RSO-long"}
    assert endpoint["result"] == {"seeds": [0], **found["RSP"]["against"]["ef"]}
    assert found["RSP-warp"]["against"]["esv"]["rmse_ratio"] == pytest.approx(1)
    page = (tmp_path / "report.html").read_text()
    assert "pretraining on the synthetic cohort helped" in page
    assert "the generator is shown to help" in page
    order = [page.index(words) for words in (
        "<h2>Primary endpoint", "Primary endpoint: RMSE of EF on the test studies of phantom/dsb_like, RSP over "
        "RSO-long (equal updates): ratio 0.5", "<h2>Exploratory", "phantom/ukb_like: with equal updates",
        "<h2>Table 1")]
    assert order == sorted(order)
    assert re.search(r"<td>RSP</td>\s*<td>RSO-long</td>\s*<td>240 / 240</td>", page)
    assert re.search(r"<td>RSP</td>\s*<td>RSO</td>\s*<td>240 / 120</td>", page)
    assert "1,234 parameters" in page
    assert len(re.findall(r'src="data:image/(?:png|svg\+xml);base64,', page)) == page.count("<img") == 9
    assert "http" not in re.sub(r'src="[^"]*"', "", page)           # self-contained
    with (tmp_path / "table1.csv").open(newline="") as stream:
        rows = {(row["dataset"], row["experiment"]): row for row in csv.DictReader(stream)}
    esv = rows["phantom/dsb_like", "RSP"]["esv_rmse"], rows["phantom/dsb_like", "RSO"]["esv_rmse"]
    assert float(esv[0]) == pytest.approx(float(esv[1]) / 2, rel=0.01)
    assert [rows["phantom/dsb_like", e]["updates"] for e in ("RSO", "RSO-long", "SSO", "RSP")] == [
        "120", "240", "120", "240"]
    assert rows["Dataset 1 (DSB)", "Gheorghiță 2022, RSP"]["ef_rmse"] == "3.7"
    assert {f.suffix for f in (tmp_path / "figures").iterdir()} == {".png", ".svg"}
    assert pictures_of("4_read_an_experiment", tmp_path) == 1


def test_bad_arguments_are_one_line(two_datasets, tmp_path, capsys):
    words = ["experiment", "--preset", "tiny", "--data-dir", str(two_datasets), "--out", str(tmp_path), "--first"]
    assert main([*words, "phantom/dsb_like", "--second", "phantom/dsb_like"]) == 2
    assert main([*words, "nothing", "--second", "phantom/dsb_like"]) == 2
    assert capsys.readouterr().err.count("cardiojax: error: ") == 2
