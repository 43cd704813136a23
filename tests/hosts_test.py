"""Two processes are one, and a killed one is started again: through the command line, as a user runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cardiojax import data
from cardiojax.cli.main import main
from cardiojax.errors import InputError
from cardiojax.train import hosts

TRAIN = ("train", "sfera", "--preset", "tiny", "--data", "phantom/dsb_like:train", "--width", "2", "--spatial-features",
         "6", "--lstm-features", "5", "--batch", "4", "--evaluate-every", "2", "--steps", "6", "--data-dir")


def local(data_dir: Path, run: Path, *more: str) -> subprocess.Popen:
    env = {**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen([sys.executable, "-m", "cardiojax", "local", "--processes", "2", "--devices", "2", "--",
                             *TRAIN, str(data_dir), "--run", str(run), *more], cwd=Path(__file__).parents[1], env=env,
                            stderr=subprocess.PIPE, text=True)


def weights(run: Path) -> dict[str, np.ndarray]:
    with np.load(run / "model.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def uninterrupted(phantom_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("two") / "run"
    process = local(phantom_data, run)
    assert process.wait() == 0, process.stderr.read()
    return run


@pytest.mark.slow
def test_two_processes_are_one(phantom_data, uninterrupted, tmp_path):
    """The same batches, so the same losses and weights, to the order of their sums; also by pmap."""
    assert main([*TRAIN, str(phantom_data), "--run", str(tmp_path / "one"), "--batch", "8"]) == 0       # 8 devices
    process = local(phantom_data, tmp_path / "pmap", "--parallel", "pmap", "--batch", "8")
    assert process.wait() == 0, process.stderr.read()
    one, two = weights(tmp_path / "one"), weights(tmp_path / "pmap")
    for name in (n for n in one if n.startswith("params/")):
        np.testing.assert_allclose(two[name], one[name], rtol=2e-2, atol=2e-4, err_msg=name)
    assert len((uninterrupted / "metrics.jsonl").read_text().splitlines()) == 6 + 3      # the first process alone


@pytest.mark.slow
def test_a_killed_process_costs_nothing(phantom_data, uninterrupted, tmp_path):
    """SIGKILL in one of the two; all are started again and end as if nothing had been."""
    process = local(phantom_data, tmp_path / "run")
    while not (tmp_path / "run" / "checkpoints" / "2").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "starting all 2 again" in said
    assert "resumed at step" in said
    again, whole = weights(tmp_path / "run"), weights(uninterrupted)
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name], err_msg=name)


def test_processes_share_each_batch(phantom_data):
    """Without overlap or loss, in the order of one process, and with one place in the data for all."""
    split = data.open_split("phantom/dsb_like:train", phantom_data)

    def batches(process, processes):
        return data.training_batches(split, size_px=75, batch=6, slices=16, seed=3, process=process,
                                     processes=processes)

    one, parts = batches(0, 1), [batches(i, 3) for i in range(3)]
    for _ in range(5):                                   # beyond an epoch of 12
        whole, pieces = next(one), [next(part) for part in parts]
        np.testing.assert_array_equal(np.concatenate([p.frames for p in pieces]), whole.frames)
        assert all(part.get_state() == one.get_state() for part in parts)


def test_who_is_one_of_several(monkeypatch):
    assert hosts.launched() is None
    monkeypatch.setenv("SLURM_NTASKS", "4")               # an allocation without srun is no launch
    assert hosts.launched() is None
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert hosts.launched() == "SLURM"
    for words in ({"processes": 2}, {"coordinator": "a:1", "processes": 2}, {"processes": 2, "process": 0}):
        with pytest.raises(InputError, match="go together"):
            hosts.join(**words)
    with pytest.raises(InputError, match="it is 0 to 1"):
        hosts.join("a:1", 2, 2)


def test_local_says_what_is_missing(capsys):
    assert main(["local", "--processes", "2"]) == 2
    assert main(["local", "--processes", "0", "--", "train", "sfera"]) == 2
    assert capsys.readouterr().err.count("cardiojax: error: ") == 2
