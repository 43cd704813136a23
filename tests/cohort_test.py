"""The choice of a cohort: flat where asked to be, patients alike, splits apart."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cardiojax import data, units
from cardiojax.cli.main import main
from cardiojax.config import GauganConfig, GauganNetConfig
from cardiojax.errors import DataError, InputError
from cardiojax.evaluate import cohort_figures
from cardiojax.files import write_text
from cardiojax.models.gaugan import GauganModel, new_networks
from cardiojax.study import Study
from cardiojax.synthesis import build, cohort, masks
from cardiojax.synthesis.cohort import EDGES, Member, Pool, apportioned, choose, histogram, shares
from cardiojax.synthesis.consistency import background_difference, slice_difference, steady_background
from cardiojax.synthesis.masks import Recipe
from cardiojax.synthesis.subset import write_half

NO_DATASETS = {}.__getitem__               # these distributions look at none
UNIFORM = shares("uniform", NO_DATASETS)


def random_pool(n=4000, patients=20, seed=0):
    rng = np.random.default_rng(seed)
    efs = np.clip(rng.normal(50, 18, n), 10, 80)
    return Pool(tuple(Member(int(rng.integers(patients)), Recipe("low_es", i), float(e)) for i, e in enumerate(efs)), n)


def ef(members):
    return np.array([m.ef_percent for m in members])


@pytest.mark.parametrize("size", [None, 700])
def test_a_uniform_choice_is_flat(size):
    chosen = choose(random_pool(), UNIFORM, size, 0)
    counts = histogram(ef(chosen))
    if size:
        assert len(chosen) == size
    assert counts.max() - counts.min() <= 1
    assert len(set(chosen)) == len(chosen)
    assert choose(random_pool(), UNIFORM, size, 0) == chosen
    by_patient = np.bincount([m.patient for m in chosen])
    assert by_patient.max() < 2 * by_patient.mean()


def test_other_distributions():
    pool = random_pool()
    low = choose(pool, shares("low", NO_DATASETS), 600, 0)
    assert (ef(low) < 40).mean() == pytest.approx(2 / 3, abs=0.01)
    real = np.random.default_rng(1).normal(60, 6, 500)
    like = choose(pool, shares("as:real", {"real": real}.get), 500, 0)
    np.testing.assert_allclose(histogram(ef(like)), histogram(real) * 500 / histogram(real).sum(), atol=1)
    assert len(choose(pool, shares("all", NO_DATASETS), None, 0)) == 4000
    for wrong in ("flat", "as:"):
        with pytest.raises(InputError, match="uniform, as:NAME, low or all"):
            shares(wrong, NO_DATASETS)
    with pytest.raises(cohort.TooFew, match="an EF of"):
        choose(pool, UNIFORM, 4000, 0)


def test_apportioned_by_hand():
    assert apportioned(10, np.array([1.0, 1.0, 1.0])).tolist() == [4, 3, 3]
    assert apportioned(7, np.array([0.5, 0.25, 0.25])).tolist() == [3, 2, 2]
    assert apportioned(0, np.ones(3)).tolist() == [0, 0, 0]


def test_figures_by_hand():
    """Two studies of 4 in one bin of 14: the largest deviation is that of this bin, 2 against 4 / 14."""
    members = tuple(Member(0, Recipe("high", i), e) for i, e in enumerate([12.0, 13.0, 40.0, 70.0]))
    figures = cohort.Choice(members, 1, 35, 20).figures(UNIFORM)
    assert figures["studies_by_bin"] == [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
    assert figures["largest_bin_deviation"] == pytest.approx(2 / (4 / 14) - 1)
    assert figures["ks_distance"] == pytest.approx(0.5 - 3 / 70)        # at EF 13: half of the studies, 3/70 wanted


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A run folder of an untrained generator: what it paints is no heart, but it is always the same."""
    path = tmp_path_factory.mktemp("gaugan")
    config = GauganConfig(net=GauganNetConfig(size_px=75, upsamplings="few", ngf=2, hidden=4, ndf=2),
                          perceptual="none")
    GauganModel(config.net, (0, 1, 2, 3), *new_networks(config.net, jax.random.key(0))[:2]).save(path / "model.npz")
    write_text(path / "config.json", json.dumps({
        "format": 1, "task": "gaugan", "labels": [0, 1, 2, 3], "seed": 0,
        "config": {"net": {k: getattr(config.net, k) for k in config.net.__dataclass_fields__}}}))
    return path


def words(generator, real, out, *more):
    """A cohort in a data folder of its own, beside the real records."""
    out.mkdir(exist_ok=True)
    if not (out / "phantom").exists():
        (out / "phantom").symlink_to(real / "phantom")
    return ["build", "synthetic", "--gaugan", str(generator), "--data-dir", str(out), "--from",
            "phantom/dsb_like:train,phantom/dsb_like:validation", "--size", "44", "--distribution", "all",
            *map(str, more)]


def shards(out, config="all"):
    return {p.name: p.read_bytes() for p in sorted((out / "synthetic" / config / "1.0.0").glob("synthetic-*"))}


@pytest.fixture(scope="module")
def built(generator, phantom_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort") / "data"
    assert main(words(generator, phantom_data, out, "--figures", out / "figures")) == 0
    return out


@pytest.mark.slow
def test_a_cohort_opens_as_any_dataset(built, phantom_data):
    """Volumes are Simpson's on the stored masks; descendants are in their ancestor's split."""
    real = {s: data.open_split(f"phantom/dsb_like:{s}", phantom_data) for s in ("train", "validation")}
    for name, split in real.items():
        made = data.open_split(f"synthetic/all:{name}", built)
        assert made.ancestors <= split.ancestors
        lengths = {(s := split[i]).study_id: len(s) for i in range(len(split))}
        for i in range(0, len(made), 7):
            study = made[i]
            np.testing.assert_allclose(study.volumes_ml, masks.volumes_ml(study.masks), rtol=1e-6)
            assert 10 <= units.ef_percent(*study.volumes_ml) <= 80
            assert study.slice_spacing_mm == 8.0
            assert len(study) == lengths[study.ancestor]
    counts = {s: len(data.open_split(f"synthetic/all:{s}", built)) for s in real}
    assert counts == {"train": 33, "validation": 11}
    assert {p.name for p in (built / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("fig1_ef", "fig2_workflow", "fig3_stacks") for kind in ("png", "svg")}
    data.open_pair("synthetic/all:train", None, built)


@pytest.mark.slow
def test_a_half_is_of_the_same_studies(built, tmp_path):
    """Half of the training studies at random, each as it was; validation unchanged."""
    whole = {s: data.open_split(f"synthetic/all:{s}", built) for s in ("train", "validation")}
    for config, seed in (("half", 0), ("again", 0), ("other", 1)):
        write_half(whole["train"], built / "synthetic/all/1.0.0", tmp_path / f"synthetic/{config}/1.0.0", seed)
    half = {s: data.open_split(f"synthetic/half:{s}", tmp_path) for s in whole}
    assert (len(half["train"]), len(half["validation"])) == (16, 11)
    by_id = {s.study_id: s for s in whole["train"]}
    places = [list(by_id).index(s.study_id) for s in half["train"]]
    assert places == sorted(set(places)) != list(range(16))
    for study in half["train"]:
        np.testing.assert_array_equal(study.frames, by_id[study.study_id].frames)
        np.testing.assert_array_equal(study.volumes_ml, by_id[study.study_id].volumes_ml)
    assert [s.study_id for s in half["validation"]] == [s.study_id for s in whole["validation"]]
    members = json.loads((tmp_path / "synthetic/half/1.0.0/cohort.json").read_text())["members"]["train"]
    assert [m["study_id"] for m in members] == [s.study_id for s in half["train"]]
    assert shards(tmp_path, "half") == shards(tmp_path, "again") != shards(tmp_path, "other")


@pytest.mark.slow
def test_killed_and_shared_builds_end_in_the_same_bytes(built, generator, phantom_data, tmp_path, monkeypatch, capsys):
    """kill −9 after the first shard; then three processes, the last of which ends the work."""
    out = tmp_path / "killed"
    killed = subprocess.Popen([sys.executable, "-m", "cardiojax", *words(generator, phantom_data, out)],
                              env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},       # as conftest.py here
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not shards(out) and killed.poll() is None:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    with pytest.raises(DataError, match="not built"):
        data.open_split("synthetic/all:train", out)
    first = {name: (out / "synthetic/all/1.0.0" / name).stat().st_mtime_ns for name in shards(out)}
    for process in (2, 0, 1):
        assert main(words(generator, phantom_data, out, "--process", process, "--processes", 3)) == 0
    assert shards(out) == shards(built)
    assert all((out / "synthetic/all/1.0.0" / name).stat().st_mtime_ns == at for name, at in first.items())
    assert not list((out / "synthetic/all").glob("**/partial-*"))
    assert len(data.open_split("synthetic/all:train", out)) == 33
    assert main(words(generator, phantom_data, out, "--seed", 1)) == 2
    assert "holds a cohort with other settings" in capsys.readouterr().err


def test_a_cohort_is_refused_in_one_line(generator, phantom_data, capsys, tmp_path):
    def refused(*more, base=None):
        assert main([*(base or words(generator, phantom_data, tmp_path / "data")), *map(str, more)]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "--process 3 is not one of 2" in refused("--process", 3, "--processes", 2)
    assert "--overwrite is for one process" in refused("--processes", 2, "--overwrite")
    assert "NAME:SPLIT" in refused("--from", "phantom")
    assert "has no split 'nothing'" in refused("--from", "phantom/dsb_like:nothing")
    assert "uniform, as:NAME, low or all" in refused("--distribution", "bell")
    assert "ask for a smaller --size" in refused("--size", 100_000, "--from", "phantom/dsb_like:validation[:1]")
    assert "no style encoder" in refused("--consistency", "style", "--config", "styled")
    assert "is not a run folder" in refused("--gaugan", tmp_path)


def test_a_patient_in_two_splits_is_refused(phantom_data):
    split = data.open_split("phantom/dsb_like:validation", phantom_data)
    studies = build.studies_with_masks(split)
    with pytest.raises(DataError, match="is in both train and validation"):
        cohort.plan({"train": studies, "validation": studies[:1]}, UNIFORM, 10, 0)


def test_the_background_of_a_study_can_be_shared():
    rng = np.random.default_rng(0)
    frames = rng.uniform(-1, 1, (1, 60, 60, 2)).astype(np.float32)
    heart = np.zeros((1, 60, 60, 2), np.uint8)
    heart[0, 25:35, 25:35] = 1
    out = steady_background(frames, heart)
    np.testing.assert_array_equal(out[0, 20:40, 20:40], frames[0, 20:40, 20:40])
    np.testing.assert_allclose(out[0, :5], np.repeat(frames[0, :5].mean(-1, keepdims=True), 2, -1), atol=1e-6)

    def difference(images):
        return background_difference([Study("x", build.to_uint8(images), 8.0, masks=heart)])

    assert difference(frames) == pytest.approx(1 / 3, abs=0.03)        # of two uniform numbers in [0, 1]
    assert difference(out) < 0.2 * difference(frames)


def test_neighbouring_slices_are_compared_away_from_both_hearts():
    """Slices of 10, 20 and 50 of 255 at both phases: differences of 10 and 30. Where a heart is nothing counts."""
    frames = np.broadcast_to(np.array([10, 20, 50], np.uint8)[:, None, None, None], (3, 60, 60, 2)).copy()
    heart = np.zeros((3, 60, 60, 2), np.uint8)
    heart[1, 25:35, 25:35] = 1
    frames[1, 25:35, 25:35] = 255
    study = Study("x", frames, 8.0, masks=heart)
    assert slice_difference([study]) == pytest.approx(20 / 255)
    assert slice_difference([study.replace(frames=frames[:1], masks=heart[:1])]) == 0
    assert background_difference([study]) == 0


def test_the_figures_take_the_middle_of_the_heart(phantom_data, tmp_path):
    split = data.open_split("phantom/dsb_like:validation", phantom_data)
    cohort_figures.workflow(split[0], tmp_path / "fig2.png")
    assert (tmp_path / "fig2.png").stat().st_size > 5000


def test_bins_cover_the_range():
    assert EDGES[0] == 10
    assert EDGES[-1] == 80
    assert histogram(np.array([10.0, 80.0, 9.9, 80.1])).sum() == 2


def test_a_full_disk_is_one_line_and_leaves_whole_shards_alone(tmp_path):
    rng = np.random.default_rng(0)
    study = Study(study_id="a", frames=rng.integers(0, 255, (4, 150, 150, 2), np.uint8), slice_spacing_mm=8.0,
                  masks=np.zeros((4, 150, 150, 2), np.uint8), volumes_ml=np.array([100.0, 40.0]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    build.write_shard(tmp_path / "whole", iter([study]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            build.write_shard(tmp_path / "shard", iter([study]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [f.name for f in tmp_path.iterdir()] == ["whole"]
