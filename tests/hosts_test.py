"""Two processes are one, and a killed one is started again: through the command line, as a user runs it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from cardiojax import data
from cardiojax.cli import local as local_cli
from cardiojax.cli.main import PREEMPTED, main
from cardiojax.errors import InputError
from cardiojax.models.saved import read_metrics
from cardiojax.train import hosts, launchers, loop, sfera
from cardiojax.train.parallel import Parallel
from tests import sgd_step

ROOT = Path(__file__).parents[1]
STEPS = 6
TRAIN = ("train", "sfera", "--preset", "tiny", "--data", "phantom/dsb_like:train", "--width", "2", "--blocks", "2",
         "--spatial-features", "6", "--lstm-features", "5", "--batch", "4", "--evaluate-every", "2", "--steps",
         str(STEPS), "--data-dir")


def python(*words: str, process: int | None = None) -> subprocess.Popen:
    """A Python of its own; as `process` of two, with two devices."""
    flags = "" if process is None else "--xla_force_host_platform_device_count=2"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def local(data_dir: Path, run: Path, *words: str) -> subprocess.Popen:
    return python("cardiojax", "local", "--processes", "2", "--devices", "2", "--", *TRAIN, str(data_dir), "--run",
                  str(run), *words)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def wait_for(path: Path, *processes: subprocess.Popen):
    while not path.exists():
        assert all(p.poll() is None for p in processes), [p.stderr.read() for p in processes if p.poll() is not None]
        time.sleep(0.01)


def weights(run: Path) -> dict[str, np.ndarray]:
    with np.load(run / "model.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.slow
def test_the_gradients_of_two_processes_are_those_of_one(phantom_data, tmp_path):
    """As steps of SGD, by jit and by pmap, with unequal numbers of real slices; the statistics and the loss too."""
    parts = [next(data.training_batches(sgd_step.task(phantom_data).training, size_px=75, batch=8, slices=16,
                                        seed=sgd_step.SEED, process=i, processes=2)).n_slices for i in range(2)]
    assert parts[0].sum() != parts[1].sum()
    address = free_address()
    two = [python("tests.sgd_step", address, str(i), str(phantom_data), str(tmp_path), process=i) for i in range(2)]
    sgd_step.fit(phantom_data, tmp_path / "one", "jit", jax.devices()[:1])
    said = [process.communicate()[1] for process in two]
    assert [process.returncode for process in two] == [0, 0], said

    task = sgd_step.task(phantom_data)
    start = task.init(jax.random.split(jax.random.key(sgd_step.SEED))[0])
    like = Parallel(task, devices=jax.devices()[:1]).abstract(start)

    def stepped(name):
        with sgd_step.opened(tmp_path / name) as run:
            return run.restore(like)[0]

    one = stepped("one")
    for mode in ("jit", "pmap"):
        found = stepped(mode)
        for ours, truth, before in zip(*(jax.tree.leaves(s.params) for s in (found, one, start)), strict=True):
            assert np.abs(truth - before).max() > 0
            np.testing.assert_allclose(ours - before, truth - before, rtol=2e-4, atol=2e-6)
        for ours, truth in zip(*(jax.tree.leaves(s.stats) for s in (found, one)), strict=True):
            np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def uninterrupted(phantom_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("two") / "run"
    process = local(phantom_data, run)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return run


@pytest.fixture(scope="module")
def preempted(phantom_data, tmp_path_factory):
    """SIGTERM to the second of two processes before their first step: the run, what each said as it ended, and a copy
    of the run."""
    run, address = tmp_path_factory.mktemp("preempted") / "run", free_address()
    two = [python("cardiojax", *TRAIN, str(phantom_data), "--run", str(run), "--coordinator", address, "--processes",
                  "2", "--process", str(i), process=i) for i in range(2)]
    wait_for(run / "config.json", *two)              # they have met, and are about to compile
    two[1].send_signal(signal.SIGTERM)
    said = [process.communicate()[1] for process in two]
    copy = shutil.copytree(run, run.with_name("copy"))
    return run, [(process.returncode, text) for process, text in zip(two, said, strict=True)], copy


@pytest.mark.slow
def test_sigterm_to_one_of_two_stops_both_at_the_same_step(preempted):
    run, ends, _ = preempted
    stopped = []
    for code, said in ends:
        assert code == PREEMPTED, said
        stopped += re.findall(rf"stopped at step (\d+) of {STEPS} and saved", said)
    assert len(stopped) == 2
    assert len(set(stopped)) == 1
    assert max(int(p.name) for p in (run / "checkpoints").iterdir()) == int(stopped[0]) < STEPS


@pytest.mark.slow
def test_stopped_gone_on_with_and_killed_costs_nothing(phantom_data, uninterrupted, preempted):
    """The run that SIGTERM stopped goes on, with its studies on every device now; then SIGKILL in one of the two: all
    are started again. The weights are those of a run that nothing happened to, to the bit."""
    run = preempted[0]
    at = max(int(p.name) for p in (run / "checkpoints").iterdir())
    process = local(phantom_data, run, "--resident")
    wait_for(run / "checkpoints" / str(at // 2 * 2 + 2), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert f"resumed at step {at}\n" in said
    assert "starting all 2 again" in said
    assert said.count("resumed at step") == 2
    again, whole = weights(run), weights(uninterrupted)
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name], err_msg=name)
    lines = map(json.loads, (uninterrupted / "metrics.jsonl").read_text().splitlines())
    assert sum(line["kind"] != "machine" for line in lines) == STEPS + 3                 # the first process alone


@pytest.mark.slow
def test_a_stopped_run_goes_on_on_fewer_devices(phantom_data, uninterrupted, preempted, monkeypatch):
    """From two processes with two devices each to one device: the same losses of the steps that were left."""
    run = preempted[2]
    monkeypatch.setattr(loop, "Parallel", lambda task, mode: Parallel(task, mode, devices=jax.devices()[:1]))
    monkeypatch.setattr(sfera.parallel, "check_batch", lambda *_, **__: None)           # eight are here
    assert main([*TRAIN, str(phantom_data), "--run", str(run)]) == 0

    def losses(run):
        return {m["step"]: m["loss"] for m in read_metrics(run) if m["kind"] == "train"}

    found, whole = losses(run), losses(uninterrupted)
    assert found.keys() == whole.keys() == set(range(1, STEPS + 1))
    assert [found[i] for i in sorted(found)] == pytest.approx([whole[i] for i in sorted(whole)], rel=1e-4)
    assert json.loads((run / "config.json").read_text())["machine"]["processes"] == 2       # where it began


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


def test_who_is_one_of_several(monkeypatch, caplog):
    assert launchers.launched() is None
    monkeypatch.setenv("SLURM_NTASKS", "4")               # an allocation without srun is no launch
    assert launchers.launched() is None
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert launchers.launched() is None                       # nor is the job's own script
    with caplog.at_level("WARNING", "cardiojax"):
        monkeypatch.setattr(launchers.log, "propagate", True)
        hosts.join()
    assert "works alone" in caplog.text
    monkeypatch.setenv("SLURM_STEP_NODELIST", "a[1-2]")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x2)")
    assert launchers.launched() == ("SLURM", 4, 2, 2, 0)
    monkeypatch.setenv("SLURM_NTASKS", "")
    assert launchers.launched() is None
    for words in ({"processes": 2}, {"coordinator": "a:1", "processes": 2}, {"processes": 2, "process": 0}):
        with pytest.raises(InputError, match="go together"):
            hosts.join(**words)
    with pytest.raises(InputError, match="it is 0 to 1"):
        hosts.join("a:1", 2, 2)
    with pytest.raises(InputError, match="HOST:PORT, not a"):
        hosts.join("a", 2, 1)


@pytest.mark.parametrize(("tasks", "rank", "visible", "of_node", "own"), [
    (1, 0, "0,1,2,3,4,5,6,7", 8, []),                     # one task a node drives all of it
    (8, 3, "0,1,2,3,4,5,6,7", 8, [3]),                    # a task a GPU, where each sees all
    (4, 1, "0,1,2,3,4,5,6,7", 8, [2, 3]),
    (8, 3, "0", 8, []),                                   # bound by SLURM: each sees its own
    (2, 1, "0,1,2,3", 8, []),
    (2, 1, "", 0, []),                                    # hidden, or a machine without
])
def test_every_gpu_has_one_process(monkeypatch, tasks, rank, visible, of_node, own):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", str(of_node))
    assert launchers.gpus_of(launchers.Launched("SLURM", 2 * tasks, rank, tasks, rank)) == own


def test_gpus_that_do_not_go_round(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with pytest.raises(InputError, match="3 processes on a node of 4 GPUs"):
        launchers.gpus_of(launchers.Launched("Open MPI", 3, 0, 3, 0))
    with pytest.raises(InputError, match="need 6 GPUs; 4 are here"):
        local_cli.environment(local_cli.Local(processes=3, devices=2), 0, Path("x"))
    assert local_cli.environment(local_cli.Local(processes=2, devices=2), 1, Path("x"))["CUDA_VISIBLE_DEVICES"] == "2,3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")        # hidden on purpose: they stay so
    assert local_cli.environment(local_cli.Local(processes=2), 1, Path("x"))["CUDA_VISIBLE_DEVICES"] == ""


def test_who_works_by_itself_keeps_to_its_own_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    launchers.keep_to_own_gpus(launchers.Launched("SLURM", 4, 1, 2, 1))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"


def test_tasks_of_a_node():
    assert [launchers.tasks_on_this_node("4(x2),1", node) for node in range(3)] == [4, 4, 1]


@pytest.mark.slow
def test_processes_are_measured_together(phantom_data, tmp_path):
    """All of them take the step, on the devices of all; the first says how fast."""
    local = python("cardiojax", "local", "--processes", "2", "--", "bench", "train", "--task", "sfera", "--preset",
                   "tiny", "--batch", "4", "--parallel", "pmap", "--rounds", "1", "--json", str(tmp_path / "x.json"),
                   "--data", "phantom/dsb_like:train", "--data-dir", str(phantom_data))
    errors = local.communicate(timeout=300)[1]
    assert local.returncode == 0, errors
    found = json.loads((tmp_path / "x.json").read_text())
    rows = {row["what"]: row for row in found["rows"]}
    assert found["processes"] == 2
    assert {(row["devices"], row["batch"]) for row in found["rows"]} == {(2, 4)}
    assert rows["train sfera"]["value"] * rows["train sfera call"]["value"] == pytest.approx(4 * 1000, rel=1e-2)


@pytest.mark.slow
def test_who_waits_in_vain_says_so():
    """One line and exit code 2, where JAX itself would end in an abort."""
    alone = python("cardiojax", *TRAIN, "x", "--run", "x", "--coordinator", free_address(), "--processes", "2",
                   "--process", "0", "--join-timeout", "2")
    said = alone.communicate(timeout=60)[1]
    assert alone.returncode == 2
    assert "of 2 processes" in said
    assert "not all have come within 2 s" in said


def test_what_dies_before_its_first_step_is_not_started_again(monkeypatch, capsys):
    monkeypatch.setattr(local_cli, "run", lambda args, command, stepped: 1)
    assert main(["local", "--processes", "2", "--", "train", "sfera"]) == 1
    assert capsys.readouterr().err.count("before its first step") == 1


def test_local_says_what_is_missing(capsys):
    assert main(["local", "--processes", "2"]) == 2
    assert main(["local", "--processes", "0", "--", "train", "sfera"]) == 2
    assert capsys.readouterr().err.count("cardiojax: error: ") == 2
