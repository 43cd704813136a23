"""A new site's label curve: who may see what, stopped and started again, numbers by hand, the command line."""

import contextlib
import dataclasses
import json
import types

import numpy as np
import pytest

from cardiojax import data
from cardiojax.cli.main import main
from cardiojax.config import SFERA_PRESETS
from cardiojax.errors import DataError, InputError
from cardiojax.evaluate.metrics import with_ef
from cardiojax.experiment import cells, claim, folders, label_arms, label_curve, new_site
from cardiojax.experiment.comparison import against
from cardiojax.experiment.config import NEW_SITE_PRESETS
from cardiojax.models.contours import ContoursModel
from cardiojax.models.prediction import Prediction
from cardiojax.units import ef_percent
from conftest import undrawn
from tests.oracle import Oracle

TINY = NEW_SITE_PRESETS["tiny"]
CONFIG = dataclasses.replace(TINY, seeds=2, sfera=dataclasses.replace(TINY.sfera, batch=4))
SITE, ELSEWHERE = "phantom/dsb_like", "phantom/ukb_like"


class Reader(ContoursModel):
    """Contours that find EDV and ESV mixed up with one another: fitted they are right."""

    sees_masks = False

    def __init__(self):
        self.path, self.mean_predictor = "reader", np.array([150.0, 60, 60])
        self.settings = {"seed": 0, "data": {"training": f"{ELSEWHERE}:train"}}
        self.config = types.SimpleNamespace(net=CONFIG.teaching.net)

    def arrays(self):
        return {"a": np.zeros(1)}

    def predict_many(self, split, batch=8, slices=0):
        for study in split:
            edv, esv = np.array([[1.2, 0.1], [-0.1, 0.8]]) @ study.volumes_ml + np.array([5, -3])
            yield study, Prediction(study.study_id, edv, esv, float(ef_percent(edv, esv)), 5.0, 5.0, 4.0)


def oracle(run) -> Oracle:
    return Oracle(run, 0.1 if run.name.startswith("rsp") else 0.2)


@contextlib.contextmanager
def standing_in():
    """What each training was given, by the name of its stage, in place of training it; stops where `stop_at` of them
    are made."""
    made, stop_at = {}, [None]

    def train(config, *, run, **words):
        if len(made) == stop_at[0]:
            raise KeyboardInterrupt
        made[run.name.rpartition("_")[0]] = types.SimpleNamespace(config=config, run=run, **words)
        run.mkdir(parents=True)

    with pytest.MonkeyPatch.context() as patch:
        for module in (label_arms.sfera, new_site.contours):
            patch.setattr(module, "train", train)
        patch.setattr(new_site.ContoursModel, "load", lambda name: Reader())
        patch.setattr(folders, "load_measuring", oracle)
        undrawn(patch)
        yield made, stop_at


def arms_of(data_dir, out, config=CONFIG, **changed):
    words = {"site": SITE, "pretraining": [ELSEWHERE], "reader": "reader", "data_dir": data_dir, "out": out}
    return new_site.NewSite(config, "tiny", **words | changed)


def go(data_dir, out, config=CONFIG, known=(), **changed):
    return label_curve.run(arms_of(data_dir, out, config, **changed), known)


@pytest.fixture(scope="module")
def whole(two_datasets, tmp_path_factory):
    """The result, its folder, and what each training was given."""
    with standing_in() as (made, _):
        out = tmp_path_factory.mktemp("curve")
        return go(two_datasets, out), out, made


def test_what_each_arm_is_given(two_datasets, whole):
    result, _, made = whole
    rso, rsp, taught = (made[f"{kind}_4_1"] for kind in ("rso", "rsp_phantom_ukb_like", "taught"))
    before = made["pretrained_phantom_ukb_like_1"]
    assert rso.config.steps == before.config.steps + rsp.config.steps == 120
    assert (rso.init, rsp.init, taught.init.name) == (None, before.run, "reader")
    assert before.training.name == f"{ELSEWHERE}:train"
    assert {run.validation.name for run in (rso, rsp)} == {f"{SITE}:validation"}
    assert taught.validation == f"{ELSEWHERE}:validation"                # a calibration on the site would be labels
    assert [s.study_id for s in rso.training] == [s.study_id for s in rsp.training]
    assert all(s.masks is None for run in (rso, rsp) for split in (run.training, run.validation) for s in split)
    elsewhere, of_site = list(taught.training)[:8], list(taught.training)[8:]
    assert [s.study_id for s in elsewhere] == [
        s.study_id for s in data.open_split(f"{ELSEWHERE}:train", two_datasets)]
    assert all(s.masks is not None for s in elsewhere)
    assert [s.study_id for s in of_site] == [s.study_id for s in rso.training]
    assert all(s.masks is None for s in of_site)
    for seed in (0, 1):                                                  # nested, and others by each seed
        few, all_ = ({s.study_id for s in made[f"rso_{n}_{seed}"].training} for n in (4, 8))
        assert few < all_
    assert {s.study_id for s in made["rso_4_0"].training} != {s.study_id for s in rso.training}
    assert {(p["arm"], p["labelled"], p["seed"]) for p in result["points"]} == {
        *((arm, n, seed) for arm in ("contours", "contours-fitted", "RSO", "RSO-paper", "RSP-phantom/ukb_like",
                                     "hybrid", "contours-taught") for n in (4, 8) for seed in (0, 1)),
        *((arm, 0, seed) for arm in ("contours", "SSO-phantom/ukb_like") for seed in (0, 1))}
    assert result["sees"].keys() == {p["arm"] for p in result["points"]}


def test_the_papers_recipe_differs_in_nothing_but_the_recipe(whole):
    """The same network, studies, batches and steps."""
    ours, paper = (whole[2][f"{name}_4_1"] for name in ("rso", "rso_paper"))
    assert paper.training is ours.training
    sizes = ("net", "batch", "steps", "evaluate_every")
    assert {field.name for field in dataclasses.fields(paper.config)
            if getattr(paper.config, field.name) != getattr(SFERA_PRESETS["paper"], field.name)} <= {*sizes}
    assert all(getattr(paper.config, name) == getattr(ours.config, name) for name in sizes[1:])
    assert paper.config.net == dataclasses.replace(ours.config.net, readout="final", dropout=0.0)


def test_stopped_is_unstopped(two_datasets, tmp_path):
    config = dataclasses.replace(CONFIG, seeds=1, shares=(1.0,), taught=False)
    with standing_in() as (made, stop_at):
        undisturbed, names = json.dumps(go(two_datasets, tmp_path / "whole", config)), list(made)
        assert json.loads((tmp_path / "whole" / "label_curve.json").read_text()) == json.loads(undisturbed)
        made.clear()
        stop_at[0] = 2
        with pytest.raises(KeyboardInterrupt):
            go(two_datasets, tmp_path / "stopped", config)
        stop_at[0] = None
        assert json.dumps(go(two_datasets, tmp_path / "stopped", config)) == undisturbed
        assert list(made) == names
        made.clear()
        go(two_datasets, tmp_path / "whole", dataclasses.replace(config, finetuning_rate=1e-4))
        assert list(made) == [name for name in names if name.startswith("rsp")]


def test_what_is_known_from_elsewhere_is_not_made_again(two_datasets, whole, tmp_path):
    """Of two machines, each with one seed, a third makes the result of one that made both; hybrids, that they left out,
    of what is known."""
    result, out, _ = whole
    everything = json.loads((out / cells.FILE).read_text())
    parts = [tmp_path / f"{seed}.json" for seed in (0, 1)]
    for seed, part in enumerate(parts):
        part.write_text(json.dumps(everything | {"cells": [
            c for c in everything["cells"] if c["seed"] == seed and c["arm"] != label_arms.HYBRID]}))
    with standing_in() as (made, _):
        again = go(two_datasets, tmp_path / "again", known=parts)
        assert not made
        assert sorted(map(json.dumps, again["points"])) == sorted(map(json.dumps, result["points"]))
        assert sorted(map(json.dumps, again["comparisons"])) == sorted(map(json.dumps, result["comparisons"]))
        assert json.loads((tmp_path / "again" / cells.FILE).read_text())["truth"] == everything["truth"]
        go(two_datasets, tmp_path / "half", known=parts[:1])
        assert {name.rpartition("_")[2] for name in made} == {"1"}
        for wrong, says in ((dataclasses.replace(CONFIG, finetuning_steps=3), "other settings: finetuning_steps$"),
                            (CONFIG, "other test studies"), (CONFIG, "is no cells.json")):
            with pytest.raises(InputError, match=says):
                go(two_datasets, tmp_path / "wrong", wrong, known=parts)
            parts[0].write_text("[]" if "test studies" in says else json.dumps(
                everything | {"truth": {seed: rows[:2] for seed, rows in everything["truth"].items()}}))


def test_an_evaluation_is_of_the_studies_that_are_there_now(two_datasets, tmp_path, monkeypatch):
    """Not of others under the same name, as after a dataset was built anew."""
    def evaluate(model, split, out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps({"n": len(split)}))

    monkeypatch.setattr(folders.report, "evaluate", evaluate)
    monkeypatch.setattr(folders, "load_measuring", lambda run: None)
    split, made = data.open_split(f"{SITE}:test", two_datasets), folders.Folders(tmp_path)
    fewer = split.subset(np.arange(2), split.name)
    assert made.evaluated(tmp_path / "run", split)["n"] == len(split) > 2
    assert made.evaluated(tmp_path / "run", fewer)["n"] == 2
    monkeypatch.setattr(folders.report, "evaluate", None)                    # once is enough
    assert made.evaluated(tmp_path / "run", fewer)["n"] == 2


def test_cells_of_other_processes_stay(two_datasets, whole, tmp_path):
    """Of two at work in one folder, each knows what it has made or waited for; one stopped loses nothing. A file of
    other settings is written anew."""
    _, out, _ = whole
    with standing_in():
        arms = arms_of(two_datasets, tmp_path)
    everything = cells.known([out / cells.FILE], arms)
    first, second = (dict([cell]) for cell in list(everything.items())[:2])
    file = tmp_path / cells.FILE
    for ours, there in ((first, [*first]), (second, [*first, *second])):
        cells.write(arms, ours)
        assert [*cells.known([file], arms)] == there
    file.write_text(file.read_text().replace('"preset": "tiny"', '"preset": "small"'))
    cells.write(arms, second)
    assert [*cells.known([file], arms)] == [*second]


def test_numbers_by_hand(two_datasets, whole):
    """Fitted contours are right; the hybrid has half of the other's error; RSP half of RSO's."""
    result, out, _ = whole
    of = {(p["arm"], p["labelled"], p["seed"]): p for p in result["points"]}
    truth = data.open_split(f"{SITE}:test", two_datasets).volumes_ml
    read = with_ef(truth @ np.array([[1.2, 0.1], [-0.1, 0.8]]).T + [5, -3])
    assert of["contours", 4, 0]["ef"]["rmse"] == pytest.approx(
        np.sqrt(((read - with_ef(truth))[:, 2]**2).mean()), abs=0.02)
    assert of["contours-fitted", 4, 1]["edv"]["rmse"] == pytest.approx(0, abs=0.05)
    esv = [of[arm, 4, 0]["esv"]["rmse"] for arm in ("hybrid", "RSP-phantom/ukb_like", "RSO")]
    assert esv == pytest.approx(np.array([0.05, 0.1, 0.2]) * np.sqrt((truth[:, 1]**2).mean()), rel=0.02)
    ratio = next(c for c in result["comparisons"] if (c["arm"], c["labelled"]) == ("RSP-phantom/ukb_like", 8))
    assert ratio["esv"]["rmse_ratio"] == pytest.approx(0.5, rel=0.01)
    endpoint = result["primary_endpoint"]
    assert (endpoint["arm"], endpoint["against"], endpoint["labelled"]) == ("RSP-phantom/ukb_like", "RSO", 4)
    assert endpoint["result"]["verdict"] == "better"
    page = (out / "label_curve.html").read_text()
    assert "no power analysis; 3 test studies" in page
    assert "Pretraining on synthetic studies helped" in page
    assert "4 labelled studies: RSP-phantom/ukb_like helped" in page


def test_what_was_pretrained_on_synthetic_studies_is_compared_with_real_ones_too():
    def cell(error):
        truth = np.array([[100.0, 50, 50], [120, 40, 66], [140, 80, 43]])
        return {0: {"predicted": truth + error, "truth": truth}}

    curve = {arm: {10: cell(np.array([e, -e, 2 * e])[:, None] + 0.1)} for arm, e in (
        ("RSO", 8.0), ("RSP-warp", 4.0), ("RSP-acdc", 2.0))}
    found = [(c["arm"], c["against"]) for c in label_curve.compared(curve, "RSP-acdc", pooled=False)]
    assert found == [("RSP-warp", "RSO"), ("RSP-warp", "RSP-acdc"), ("RSP-acdc", "RSO")]
    assert against(curve["RSP-acdc"][10], curve["RSP-warp"][10])["ef"]["rmse_ratio"] > 1.5


def test_the_checklist_has_every_item_once():
    known = claim.facts(goal="g", datasets=["d"], sfera=dataclasses.asdict(TINY.sfera), seeds="1 of 1 seed",
                        others={"GauGAN": {"steps": 1000, "batch": 8}}, drawn="studies and seeds",
                        ensembles="a hybrid is the mean of two models", partitions="p", tested="3 test studies",
                        commit="")
    rows = claim.rows(known)[1:]
    assert [int(number) for number, *_ in rows] == list(range(1, 45))
    assert {int(number) for number, _, fact in rows if fact != claim.OPEN} == known.keys()
    assert "GauGAN, 1,000 updates of 8" in known[25]
    assert known[27] == "a hybrid is the mean of two models"


def test_who_knows_the_site_is_refused(two_datasets, tmp_path):
    with standing_in(), pytest.raises(DataError, match=f"{SITE}:train knows patients of {SITE}"):
        go(two_datasets, tmp_path, pretraining=[SITE])


@pytest.mark.slow
def test_the_command_line(two_datasets, tmp_path, capsys):
    """Of the trainings RSO's is one, of two steps."""
    words = ["experiment", "labels", "--preset", "tiny", "--site", SITE, "--pretraining", ELSEWHERE, "--data-dir",
             str(two_datasets), "--out", str(tmp_path), "--pretraining-steps", "1", "--finetuning-steps", "1",
             "--no-taught", "--shares", "1"]
    train, load = label_arms.sfera.train, folders.load_measuring
    with standing_in(), pytest.MonkeyPatch.context() as patch:
        stub = label_arms.sfera.train
        patch.setattr(label_arms.sfera, "train", lambda config, *, run, **given: (
            train if run.name.startswith("rso_8") else stub)(config, run=run, **given))
        patch.setattr(folders, "load_measuring", lambda run: (load if run.name.startswith("rso_8") else oracle)(run))
        assert main([*words, "--report-only"]) == 2                     # nothing is there yet
        assert "no training of the label curve is finished" in capsys.readouterr().err
        assert main(words) == 0
        assert "Primary endpoint: RMSE of EF on 3 test studies" in capsys.readouterr().out
        result = json.loads((tmp_path / "label_curve.json").read_text())
        assert [p["arm"] for p in result["points"]] == [
            "contours", "contours", "contours-fitted", "RSO", "RSP-phantom/ukb_like", "hybrid",
            "RSO-paper", "SSO-phantom/ukb_like"]
        (config,) = tmp_path.glob("stages/rso_8_*/config.json")
        assert json.loads(config.read_text())["data"]["training"] == f"{SITE}:train, 8 of 8 by seed 0"
        assert main([*words[:-1], "2"]) == 2
        assert main([*words[:7], *words[8:]]) == 2
        assert capsys.readouterr().err.count("cardiojax: error: ") == 2
