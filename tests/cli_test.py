"""The command line as a user runs it: exit codes, one line for a mistake, nothing lost."""

import csv
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest

from cardiojax import load
from cardiojax.cli.main import main, set_up
from cardiojax.data import open_split
from cardiojax.evaluate import measured, report
from cardiojax.phantom.dicom import write_challenge, write_study

TINY = ["--width", "2", "--spatial-features", "6", "--lstm-features", "5", "--batch", "8", "--steps", "2",
        "--evaluate-every", "2", "--views", "1"]
CONTOURS = ["train", "contours", "--preset", "tiny", "--data", "phantom/dsb_like:train", "--steps", "2",
            "--evaluate-every", "2", "--data-dir"]


def cardiojax(capsys, *words) -> tuple[int, str, str]:
    try:
        code = main([str(w) for w in words])
    except SystemExit as stop:                  # tyro's own refusals
        code = stop.code or 0
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return code, out.out, out.err


def error_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("cardiojax: error: ")]
    assert len(lines) == 1, err
    return lines[0]


@pytest.fixture(scope="module")
def run(phantom_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "sfera", "--preset", "tiny", "--data", "phantom/dsb_like:train", "--data-dir",
                 str(phantom_data), "--run", str(path), *TINY]) == 0
    return path


@pytest.fixture(scope="module")
def contours(phantom_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("contours") / "run"
    assert main([*CONTOURS, str(phantom_data), "--run", str(path)]) == 0
    return path


def test_help_everywhere(capsys):
    for words in ([], ["build"], ["train"], ["train", "contours"], ["train", "gaugan"], ["combine"], ["predict"],
                  ["show"], ["experiment"], ["experiment", "labels"], ["demo"], ["port"], ["port", "vgg"],
                  ["port", "spade"]):
        code, said, err = cardiojax(capsys, *words, "--help")
        assert code == 0, err
        assert said.strip()
    train = subprocess.run([sys.executable, "-m", "cardiojax", "train", "sfera", "--help", "--preset", "paper"],
                           capture_output=True, text=True, check=False, timeout=120).stdout
    assert "20000" in train                     # defaults are the preset's


def test_output_that_nobody_reads_any_more_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "cardiojax", "experiment", "--help"], stdout=writing,
                          stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_evaluate_writes_what_it_says(run, phantom_data, tmp_path, capsys):
    code, out, _ = cardiojax(capsys, "evaluate", "--run", run, "--data", "phantom/dsb_like:test",
                             "--data-dir", phantom_data, "--out", tmp_path)
    assert code == 0
    assert "mean predictor" in out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["n"] == 4
    assert set(metrics) == {"edv", "esv", "ef", "ef_classes", "subgroups", "n", "run", "data", "seed", "commit"}
    assert {"rmse", "rmse_mean_predictor", "sd", "mae", "mae_ci95", "r", "r_p", "icc", "bias", "loa",
            "undefined"} == set(metrics["ef"])
    assert sum(map(sum, metrics["ef_classes"]["counts"])) == 4
    assert sum(metrics["subgroups"][g]["n"] for g in ("up to 9 slices", "10 slices and more")
               if g in metrics["subgroups"]) == 4
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert len(rows) == 4
    assert list(rows[0])[:9] == ["study_id", "edv_ml", "esv_ml", "ef_percent", "edv_std_ml", "esv_std_ml",
                                 "ef_std_percent", "refer", "reasons"]
    for name in ("scatter.png", "bland_altman.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 1000


def test_processes_share_an_evaluation(run, phantom_data, tmp_path, capsys, monkeypatch):
    """The files of one, whoever ends last; what an evaluation of something else has left is not taken. One that died
    while it wrote them is started again alone."""
    def evaluated(out, split, *more, expected=0):
        code, said, err = cardiojax(capsys, "evaluate", "--run", run, "--data", f"phantom/dsb_like:{split}",
                                    "--data-dir", phantom_data, "--out", tmp_path / out, *more)
        assert code == expected
        return said, err

    evaluated("alone", "train")
    evaluated("shared", "test", "--process", "0", "--processes", "2")
    said, err = evaluated("shared", "train", "--process", "1", "--processes", "2")
    assert said == ""
    assert "process 1 of 2 is done" in err
    assert not (tmp_path / "shared" / "metrics.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(report, "finish", full_disk)
        evaluated("shared", "train", "--process", "0", "--processes", "2", expected=2)
    said, _ = evaluated("shared", "train", "--process", "0", "--processes", "2")
    assert "mean predictor" in said
    for name in ("metrics.json", "predictions.csv", "scatter.png"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert not list((tmp_path / "shared").glob("parts-*"))
    assert json.loads((tmp_path / "alone" / "metrics.json").read_text())["n"] > measured.BATCH      # some for each


def full_disk(*given):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_predict_names_the_bad_and_keeps_the_good(run, tmp_path, capsys):
    for i in range(2):
        write_study(tmp_path / "in", "ukb_like", i, str(i), phases=2, other_views=False)
    broken = tmp_path / "in" / "broken"
    broken.mkdir()
    (broken / "IM-0001.dcm").write_text("text")
    code, _, err = cardiojax(capsys, "predict", tmp_path / "in", "--run", run, "--csv", tmp_path / "out.csv")
    assert code == 1
    assert "study broken: none of 1 files" in err
    assert [r["study_id"] for r in csv.DictReader((tmp_path / "out.csv").open())] == ["0", "1"]


def test_build_trains_on_dicom(run, tmp_path, capsys):
    """DICOM in the challenge's layout, end to end, with a study too short, one missing from the CSV, one broken."""
    source = tmp_path / "source"
    write_challenge(source, "ukb_like", range(6), phases=2)
    for folder in sorted((source / "train" / "2" / "study").glob("sax_*"))[3:]:
        for file in folder.iterdir():
            file.write_bytes(file.read_bytes()[:100])
    table = source / "train.csv"
    kept = [line for line in table.read_text().splitlines() if not line.startswith("3,")]
    table.write_text("\n".join(kept) + "\n")
    (source / "train" / "7" / "study" / "sax_1").mkdir(parents=True)
    code, _, err = cardiojax(capsys, "build", "kaggle_dsb", "--source", source, "--data-dir", tmp_path / "data")
    assert code == 1
    assert "study 2: 3 slices, left out of training" in err
    assert "study 3: no volumes in any CSV" in err
    assert "study 7: no DICOM files" in err
    assert "study 7:" in (tmp_path / "data" / "kaggle_dsb" / "build.log").read_text()
    code, _, err = cardiojax(capsys, "build", "kaggle_dsb", "--source", source, "--data-dir", tmp_path / "data")
    assert code == 0
    assert "is built already" in err


def test_bad_patients_are_named_and_the_good_are_built(tmp_path, capsys, acdc_patient):
    """NaN pixels, an unknown label, a mask of another shape, no spacing, one slice, no ES, cut off: each by name."""
    folder = tmp_path / "in" / "training"
    for i in range(1, 4):
        acdc_patient(folder / f"patient{i:03d}")
    acdc_patient(folder / "patient011", label=9)
    acdc_patient(folder / "patient012", spacing=(1.5, 1.5, 0.0))
    acdc_patient(folder / "patient013", shape=(20, 24, 1))
    acdc_patient(folder / "patient014", info="ED: 1\nES: 9\nGroup: NOR\n")
    for name, change in (("patient015", lambda a: a * np.nan), ("patient016", lambda a: a[:, :-2])):
        acdc_patient(folder / name)
        file = folder / name / f"{name}_frame01{'' if name == 'patient015' else '_gt'}.nii.gz"
        image = nib.load(file)
        nib.save(nib.Nifti1Image(change(image.get_fdata()).astype(image.get_data_dtype()), None, image.header), file)
    acdc_patient(folder / "patient017", shape=(90, 90, 9))
    cut = folder / "patient017" / "patient017_frame02.nii.gz"
    cut.write_bytes(cut.read_bytes()[:5000])
    code, _, err = cardiojax(capsys, "build", "acdc", "--source", tmp_path / "in", "--data-dir", tmp_path / "out")
    assert code == 1
    for study, says in (("011", "unknown labels"), ("012", "has spacing [1.5, 1.5, 0.0] mm"),
                        ("013", "1 slices, left out of training"),
                        ("014", "patient014_frame09.nii.gz is missing"), ("015", "NaN"), ("016", "mask of shape"),
                        ("017", "patient017_frame02.nii.gz")):
        assert any(f"patient{study}" in line and says in line for line in err.splitlines()), (study, err)
    summary = next(line for line in err.splitlines() if line.startswith("acdc/full/1.0.0:"))
    assert sum(map(int, re.findall(r"(?:train|validation|test) (\d+)", summary))) == 3


def test_a_source_without_one_usable_study_is_refused(tmp_path, capsys, acdc_patient):
    for i in range(4):
        acdc_patient(tmp_path / "in" / f"patient{i:03d}", label=7)
    code, _, err = cardiojax(capsys, "build", "acdc", "--source", tmp_path / "in", "--data-dir", tmp_path / "out")
    assert code == 2
    assert "no usable study among 4: study patient" in error_line(err)


def refusals(run: Path, data: Path, tmp: Path) -> dict[str, tuple[list, str]]:
    empty, text = tmp / "empty", tmp / "text"
    empty.mkdir()
    text.mkdir()
    (text / "a.dcm").write_text("no image")
    one_phase = tmp / "one_phase"
    write_study(one_phase, "ukb_like", 0, "9", phases=1, other_views=False)
    bad_csv = tmp / "bad_csv"
    (bad_csv / "train" / "1" / "study").mkdir(parents=True)
    (bad_csv / "train.csv").write_text("Id,Systole,Diastole\n1,fifty,100\n")
    no_column = tmp / "no_column"
    (no_column / "train" / "1" / "study").mkdir(parents=True)
    (no_column / "train.csv").write_text("Id,ESV\n1,50\n")
    out = ["--run", run, "--csv", tmp / "x.csv"]
    train = ["train", "sfera", "--data-dir", data, "--run", tmp / "new"]
    return {
        "no such verb": (["fly"], "no verb 'fly'"),
        "empty folder": (["predict", empty, *out], "no DICOM files"),
        "text as dicom": (["predict", text, *out], "none of 1 files"),
        "one phase": (["predict", one_phase, *out], "no ES frame"),
        "no such study": (["predict", tmp / "nowhere", *out], "does not exist"),
        "no such run": (["predict", text, "--run", tmp / "norun", "--csv", tmp / "x.csv"], "is not a run folder"),
        "no source": (["build", "acdc", "--data-dir", data], "needs --source. Register at"),
        "empty source": (["build", "acdc", "--source", empty, "--data-dir", data], "is empty or no folder. Register"),
        "wrong source": (["build", "acdc", "--source", text, "--data-dir", data], "no ACDC patients"),
        "csv with words": (["build", "kaggle_dsb", "--source", bad_csv, "--data-dir", data],
                           "train.csv: Systole of study 1 is 'fifty'"),
        "csv without a column": (["build", "kaggle_dsb", "--source", no_column, "--data-dir", data], "columns"),
        "no preset": ([*train, "--data", "phantom/dsb_like:train", "--preset", "huge"], "no preset 'huge'"),
        "no dataset": ([*train, "--data", "acdc:train"], "is not built"),
        "batch too large": ([*train, "--data", "phantom/dsb_like:train", "--batch", "64"], "more than"),
        "steps": ([*train, "--data", "phantom/dsb_like:train", "--steps", "0"], "steps must be at least 1"),
        "other steps": (["train", "sfera", "--preset", "tiny", "--data", "phantom/dsb_like:train", "--data-dir", data,
                         "--run", run, *TINY, "--steps", "4"], "a run of 2 steps, not 4: finish it with --steps 2"),
        "area without sum": ([*train, "--data", "phantom/dsb_like:train", "--readout", "final"], 'readout "sum"'),
        "no such perceptual network": (["train", "gaugan", "--data", "phantom/dsb_like:train", "--data-dir", data,
                                        "--run", tmp / "new", "--perceptual", "resnet"], "perceptual is vgg19"),
        "no weights of vgg19": (["train", "gaugan", "--data", "phantom/dsb_like:train", "--data-dir", data,
                                 "--run", tmp / "new", "--perceptual", f"vgg19:{tmp}/none.npz"],
                                "none.npz. They come from torchvision's"),
        "a sfera of another scale": (["train", "gaugan", "--data", "phantom/dsb_like:train", "--data-dir", data,
                                      "--run", tmp / "new", "--size-px", "150", "--upsamplings", "normal",
                                      "--perceptual", f"sfera:{run}"], "features at two scales do not match"),
        "a label too many": (["train", "gaugan", "--data", "phantom/dsb_like:train", "--data-dir", data,
                              "--run", tmp / "new", "--classes", "2"], "masks hold label 3"),
        "a sfera as a gaugan": (["port", "spade", run, tmp / "x.npz"], "is a sfera run"),
        "port what": (["port", "resnet"], "port what?"),
        "full of other things": (["train", "sfera", "--data", "phantom/dsb_like:train", "--data-dir", data,
                                  "--run", text, "--batch", "8"], "neither empty nor a run folder"),
    }


def test_a_mistake_is_one_line_and_exit_2(run, phantom_data, tmp_path, capsys):
    for name, (words, says) in refusals(run, phantom_data, tmp_path).items():
        code, _, err = cardiojax(capsys, *words)
        assert code == 2, name
        assert says in error_line(err), name


def test_show_says_what_a_run_is(run, capsys):
    code, out, _ = cardiojax(capsys, "show", run)
    assert code == 0
    assert '"training": "phantom/dsb_like:train"' in out
    assert "last validation" in out
    assert "parents: none" in out
    assert "checkpoints: step 2" in out
    assert re.search(r"^time: \S+ s a step, .* % of it waiting for input, the last evaluation \S+ s", out, re.M)
    with np.load(run / "model.npz") as arrays:
        assert f"{sum(a.size for n, a in arrays.items() if n.startswith('params/')):,} parameters" in out


def test_a_full_disk_is_one_line(run, tmp_path, capsys):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    write_study(tmp_path, "ukb_like", 0, "1", phases=2, other_views=False)
    code, _, err = cardiojax(capsys, "predict", tmp_path / "1", "--run", run, "--csv", full)
    assert code == 2
    assert "No space left" in error_line(err)


def test_a_run_says_on_what_it_was_trained(run):
    assert json.loads((run / "config.json").read_text())["machine"] == {
        "device": "cpu", "devices": 8, "processes": 1, "parallel": "jit"}


def test_compiled_programs_are_kept_in_the_users_own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {"CARDIOJAX_CACHE": str(tmp_path)})
    set_up()
    cores = len(os.sched_getaffinity(0))                    # they are compiled for so many
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / f"{cores}_cores")
    assert "fusion_autotuner=false" in os.environ["XLA_FLAGS"]
    monkeypatch.setattr(os, "environ", {"XLA_FLAGS": "--xla_gpu_experimental_enable_fusion_autotuner=true"})
    set_up(cache=False)
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert "fusion_autotuner=false" not in os.environ["XLA_FLAGS"]


@pytest.mark.slow
def test_a_gaugan_is_trained_and_judged(run, contours, phantom_data, tmp_path, capsys, monkeypatch, pictures_of):
    """And looked into by its notebook, where an experiment leaves it."""
    monkeypatch.setenv("CARDIOJAX_WEIGHTS", str(tmp_path / "none"))
    path = tmp_path / "stages" / "gaugan_digest"
    words = ["train", "gaugan", "--preset", "tiny", "--data", "phantom/dsb_like:train", "--data-dir", phantom_data,
             "--run", path, "--ngf", "2", "--hidden", "4", "--ndf", "2", "--steps", "2", "--evaluate-every", "2",
             "--judge", run, "--perceptual", f"sfera:{run}", "--contours", contours]
    code, _, err = cardiojax(capsys, *words)
    assert code == 0
    assert "frechet" in err
    assert f"{run} teaches this generator" in err
    assert "g_mask" in (path / "metrics.jsonl").read_text()
    assert (path / "samples" / "000002.png").exists()
    code, _, err = cardiojax(capsys, "evaluate", "--run", path, "--data", "phantom/dsb_like:test",
                             "--data-dir", phantom_data, "--out", tmp_path / "out")
    assert code == 2
    assert "--judge" in error_line(err)
    code, out, _ = cardiojax(capsys, "evaluate", "--run", path, "--data", "phantom/dsb_like:test",
                             "--data-dir", phantom_data, "--out", tmp_path / "out", "--judge", run)
    assert code == 0
    assert "synthetic against" in out
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"frechet", "kernel", "lpips", "ssim", "volume_fidelity", "n", "run", "data", "seed",
            "commit"} <= set(result)
    assert set(result["volume_fidelity"]["edv"]) == {"r", "rmse", "bias", "mae"}
    assert (tmp_path / "out" / "samples.png").exists()
    code, out, _ = cardiojax(capsys, "evaluate", "--run", path, "--data", "phantom/dsb_like:test",
                             "--data-dir", phantom_data, "--out", tmp_path / "by", "--judge", contours)
    assert code == 0
    assert "Dice, synthetic" in out
    result = json.loads((tmp_path / "by" / "metrics.json").read_text())
    assert set(result["mask_fidelity"]) == {"synthetic", "real"}
    assert "frechet" not in result
    code, out, _ = cardiojax(capsys, "show", path)
    assert code == 0
    assert '"labels"' in out
    assert pictures_of("2_images_from_masks", tmp_path) == 5


def test_contours_from_the_command_line(contours, phantom_data, tmp_path, capsys):
    """Evaluated beside masks; cines in, phases, curves and pictures out."""
    code, _, err = cardiojax(capsys, *CONTOURS, phantom_data, "--run", contours, "--neighbours", "1")
    assert code == 2
    assert "choose another --run" in error_line(err)
    code, out, _ = cardiojax(capsys, "evaluate", "--run", contours, "--data", "phantom/dsb_like:test", "--data-dir",
                             phantom_data, "--out", tmp_path / "out")
    assert code == 0
    assert "HD95" in out
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"edv", "masks", "masks_before_cleaning", "amounts"} <= set(result)
    assert {"dice_LV_ed", "dice_RV_es_apex"} <= set(result["masks"])
    assert "Masks" in (tmp_path / "out" / "report.html").read_text()
    write_study(tmp_path / "in", "ukb_like", 2, "s", phases=6)
    words = ["predict", tmp_path / "in" / "s", "--run", contours, "--csv", tmp_path / "out.csv"]
    code, *_ = cardiojax(capsys, *words, "--curves", tmp_path / "curves.csv", "--figures", tmp_path / "figures")
    assert code == 0
    row, = csv.DictReader((tmp_path / "out.csv").open())
    assert 1 <= int(row["ed_frame"]) <= 6
    assert row["lv_mass_g"]
    assert [r["phase"] for r in csv.DictReader((tmp_path / "curves.csv").open())] == list("123456")
    assert (tmp_path / "figures" / "s.png").stat().st_size > 1000
    code, *_ = cardiojax(capsys, *words, "--ed", "1", "--es", "4")
    assert code == 0
    row, = csv.DictReader((tmp_path / "out.csv").open())
    assert (row["ed_frame"], row["es_frame"]) == ("1", "4")


def test_a_hybrid_from_the_command_line(run, contours, phantom_data, tmp_path, capsys):
    words = ["combine", "--contours", contours, "--sfera", run, "--data-dir", phantom_data,
             "--run", tmp_path / "hybrid"]
    code, _, err = cardiojax(capsys, *words, "--data", "phantom/dsb_like:train")
    assert code == 2
    assert "were trained on by" in error_line(err)
    code, *_ = cardiojax(capsys, *words, "--data", "phantom/dsb_like:validation,phantom/dsb_like:test")
    assert code == 0
    code, *_ = cardiojax(capsys, "evaluate", "--run", tmp_path / "hybrid", "--data", "phantom/dsb_like:test",
                         "--data-dir", phantom_data, "--out", tmp_path / "out")
    assert code == 0
    assert "masks" in json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    study = open_split("phantom/dsb_like:test", phantom_data)[0]
    hybrid, seen, regressed = (load(r) for r in (tmp_path / "hybrid", contours, run))
    weight = float(hybrid.blend.weight[0])
    expected = weight * seen.predict(study).edv_ml + (1 - weight) * regressed.predict(study).edv_ml
    assert float(rows[0]["edv_ml"]) == pytest.approx(expected, abs=0.05)
    assert hybrid.on(jax.devices()[1]).predict(study).row() == hybrid.predict(study).row()
    code, _, err = cardiojax(capsys, *words, "--data", "phantom/dsb_like:test")
    assert code == 2
    assert "is not empty" in error_line(err)
    code, *_ = cardiojax(capsys, "show", tmp_path / "hybrid")
    assert code == 0
