"""Few annotated studies: every arm is made from the labelled ones alone; folds by patient; the command line."""

import contextlib
import dataclasses
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from cardiojax import data
from cardiojax.cli.main import main
from cardiojax.errors import DataError
from cardiojax.experiment import few_annotated, folders, label_arms, label_curve
from cardiojax.experiment.config import FEW_ANNOTATED_PRESETS
from cardiojax.train.run import with_old_defaults
from conftest import built_phantom, undrawn
from tests.oracle import Oracle

TINY = FEW_ANNOTATED_PRESETS["tiny"]
CONFIG = dataclasses.replace(TINY, seeds=2, synthetic=14, sfera=dataclasses.replace(TINY.sfera, batch=4))
DATASET = "phantom/dsb_like"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return built_phantom(tmp_path_factory, "--config", "dsb_like", train=10, validation=2, test=3)


def oracle(run) -> Oracle:
    return Oracle(run, {"rso": 0.2, "contours": 0.05}.get(run.name.partition("_")[0], 0.1))


@contextlib.contextmanager
def standing_in():
    """What each training was given, by the name of its stage, in place of training it; cohorts of warped images are
    made, a generator's are the same ones."""
    made, build = {}, few_annotated.build_cohort

    def train(config, *, run, **words):
        made[run.name.rpartition("_")[0]] = types.SimpleNamespace(config=config, run=run, **words)
        run.mkdir(parents=True)

    def cohort(generator, splits, folder, settings, real_ef):
        name = folder.parent.name.rpartition("_")[0]
        made[f"{name} cohort"] = types.SimpleNamespace(generator=generator, splits=splits)
        if generator is None:
            return build(None, splits, folder, settings, real_ef)
        (warp,) = folder.parents[1].glob(f"{name.replace('gaugan', 'warp')}_*/1.0.0")
        shutil.copytree(warp, folder)

    with pytest.MonkeyPatch.context() as patch:
        for module in (label_arms.sfera, few_annotated.contours, few_annotated.gaugan):
            patch.setattr(module, "train", train)
        patch.setattr(few_annotated, "build_cohort", cohort)
        patch.setattr(few_annotated, "load", lambda run: few_annotated.GauganModel.__new__(few_annotated.GauganModel))
        patch.setattr(folders, "load_measuring", oracle)
        undrawn(patch)
        yield made


def ids(split) -> list[str]:
    return [study.study_id for study in split]


def test_folds_test_every_patient_once(phantom):
    everyone = data.joined(*(data.open_split(f"{DATASET}:{split}", phantom) for split in (
        "train", "validation", "test")))
    folds = few_annotated.folds(everyone, DATASET)
    assert sorted(i for fold in folds for i in ids(fold["test"])) == sorted(ids(everyone))
    assert [ids(fold["validation"]) for fold in folds] == [ids(fold["test"]) for fold in (*folds[1:], folds[0])]
    for fold in folds:
        assert sorted(i for split in fold.values() for i in ids(split)) == sorted(ids(everyone))
        assert [len(fold[split]) for split in ("train", "validation", "test")] == [9, 3, 3]
        assert not fold["train"].ancestors & (fold["validation"].ancestors | fold["test"].ancestors)
    with pytest.raises(DataError, match="has 4 patients, and 5 folds want 5 or more"):
        few_annotated.folds(everyone.subset(np.arange(4), "four"), "four")
    with pytest.raises(DataError, match="15 studies have no LV in their masks"):
        few_annotated.folds(everyone.without_masks(), DATASET)


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):
    """The result, its arms, and what each training was given."""
    with standing_in() as made:
        arms = few_annotated.FewAnnotated(CONFIG, "tiny", DATASET, phantom, tmp_path_factory.mktemp("curve"))
        return label_curve.run(arms), arms, made


def test_what_each_arm_is_given(whole):
    """All of it descends from the labelled studies, and none from the tested fold."""
    _, arms, made = whole
    assert arms.counts == [4, 9]
    for count, seed in ((4, 0), (4, 1), (9, 1)):
        labelled = ids(arms.labelled(count, seed))
        name = f"{count}_{seed}"
        for kind in ("rso", "rso_paper", "contours", "gaugan", "rsp_warp", "rsp_gaugan"):
            assert ids(made[f"{kind}_{name}"].training) == labelled
        contours, painted = made[f"contours_{name}"], made[f"gaugan_{name}"]
        assert painted.config.contours == str(contours.run)
        assert ids(contours.validation) == ids(painted.validation) == labelled
        for kind in ("warp", "gaugan"):
            before, after = made[f"pretrained_{kind}_{name}"], made[f"rsp_{kind}_{name}"]
            assert after.init == before.run
            assert {study.ancestor for study in before.training} <= set(labelled)
            assert len(before.training) == CONFIG.synthetic
            assert before.config.steps + after.config.steps == made[f"rso_{name}"].config.steps == 120
            assert ids(before.validation) == ids(after.validation) == ids(arms.splits[seed]["validation"])
            assert {name: ids(split) for name, split in made[f"{kind}_{name} cohort"].splits.items()} == {
                "train": labelled}
        assert made[f"gaugan_{name} cohort"].generator is not made[f"warp_{name} cohort"].generator is None
    assert made["rso_4_0"].init is None


def test_folds_are_compared_as_one_set(whole):
    result, arms, _ = whole
    assert result["tested"] == arms.tested() == 6
    assert {(p["arm"], p["labelled"], p["seed"]) for p in result["points"]} == {
        (arm, n, seed) for arm in ("RSO", "RSO-paper", "contours", "RSP-warp", "RSP-gaugan", "hybrid", "hybrid-RSO")
        for n in (4, 9) for seed in range(2)}
    assert result["sees"].keys() == {p["arm"] for p in result["points"]}
    assert [arm for arm, sees in result["sees"].items() if "volumes and slices' LV areas" in sees] == [
        "RSO", "RSP-warp", "RSP-gaugan"]
    ratios = {(c["arm"], c["against"], c["labelled"]): c for c in result["comparisons"]}
    assert ratios["RSP-gaugan", "RSO", 4]["esv"]["rmse_ratio"] == pytest.approx(0.5, rel=0.01)
    assert ratios["RSP-gaugan", "RSP-warp", 9]["esv"]["rmse_ratio"] == pytest.approx(1, rel=0.01)
    assert ratios["hybrid", "RSO", 9]["esv"]["rmse_ratio"] == pytest.approx(0.075 / 0.2, rel=0.01)
    assert ratios["hybrid-RSO", "RSO", 9]["esv"]["rmse_ratio"] == pytest.approx(0.125 / 0.2, rel=0.01)
    assert ratios["RSP-gaugan", "RSO", 4]["seeds"] == [0, 1]
    assert result["drawn"] == "folds and the studies of each"
    # one set: RMSE over all six studies, not a mean of two
    truths = np.concatenate([arms.splits[seed]["test"].volumes_ml[:, 1] for seed in range(2)])
    by_fold = [p["esv"]["rmse"] for p in result["points"] if (p["arm"], p["labelled"]) == ("RSO", 4)]
    assert np.sqrt(np.mean(np.square(by_fold))) == pytest.approx(0.2 * np.sqrt((truths**2).mean()), rel=0.01)
    endpoint = result["primary_endpoint"]
    assert (endpoint["arm"], endpoint["against"], endpoint["labelled"]) == ("RSP-gaugan", "RSO", 4)
    assert "6 studies in all" in (arms.out / "label_curve.html").read_text()


def test_cells_that_are_finished_are_of_the_preset():
    """So that `--known` takes them up."""
    file = Path(__file__).parents[1] / "benchmarks" / "results" / "label_cells_acdc.json"
    content = json.loads(file.read_text())
    settings = content["settings"]
    preset = FEW_ANNOTATED_PRESETS[settings["preset"]]
    today = json.loads(json.dumps(dataclasses.asdict(preset)))
    assert with_old_defaults(settings["config"], today) == today
    assert {cell["seed"] for cell in content["cells"]} <= set(range(preset.seeds))


def test_the_command_line(phantom, tmp_path, capsys):
    words = ["experiment", "annotations", "--preset", "tiny", "--dataset", DATASET, "--data-dir", str(phantom), "--out",
             str(tmp_path), "--shares", "1", "--synthetic", "14", "--seeds"]
    with standing_in():
        assert main([*words, "6"]) == 2
        assert "seeds is 1 to 5, a fold each" in capsys.readouterr().err
        assert main([*words, "1", "--report-only"]) == 2
        assert "no training of the label curve is finished" in capsys.readouterr().err
        assert main([*words, "1"]) == 0
        printed = capsys.readouterr().out
        assert "Primary endpoint: RMSE of EF on 3 test studies of phantom/dsb_like, RSP-gaugan over RSO" in printed
    assert len(json.loads((tmp_path / "label_curve.json").read_text())["points"]) == 7
