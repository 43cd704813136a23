"""Nothing is lost: some disturbances by `tests.chaos` (the workflow has fifty), and what it found, each by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cardiojax import files
from cardiojax.cli.main import main
from cardiojax.cli.tables import rows_of
from cardiojax.errors import RunError
from cardiojax.train.run import Run
from tests import chaos

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_build_that_is_disturbed_loses_nothing():
    words = [sys.executable, "-W", "ignore", "-m", "tests.chaos", "12", "--seed", "5", "--commands", "build"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
                          env={**os.environ, "XLA_FLAGS": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 12 lost something" in done.stdout


def test_half_a_file_is_seen(tmp_path):
    """By what looks for them: of each kind one that is whole and one that is cut."""
    files.write_arrays(tmp_path / "whole.npz", {"a": chaos.np.zeros(9)})
    files.write_text(tmp_path / "whole.json", '{"a": 1}')
    files.write_text(tmp_path / "whole.html", "<html></html>\n")
    files.write_rows(tmp_path / "whole.csv", [("a", "b"), (1, 2)])
    assert chaos.half_written(tmp_path) == []
    for file in sorted(tmp_path.glob("whole.*")):
        (tmp_path / f"cut{file.suffix}").write_bytes(file.read_bytes()[:-3])
    assert {line.partition(":")[0] for line in chaos.half_written(tmp_path)} == {
        "cut.npz", "cut.json", "cut.html", "cut.csv"}


@pytest.mark.parametrize(("code", "left", "says"), [
    (0, "half", "another result than undisturbed"), (70, "whole", "70"), (2, "whole", ""), (0, "whole", None)])
def test_what_was_lost_is_told(tmp_path, monkeypatch, code, left, says):
    """Another result, an exit code that nobody promised, or one without its line."""
    monkeypatch.setattr(chaos.Chaos, "__init__", lambda self: None)
    monkeypatch.setattr(chaos.Chaos, "undisturbed", lambda self, words: None)
    harness = chaos.Chaos()
    harness.folder = harness.given = tmp_path
    harness.verbs, harness.seconds = {"x": chaos.Verb(lambda given, out: [], lambda out: left)}, {"x": 0}
    harness.outcome = {"x": "whole"}

    def disturb():
        return harness.disturb("x", lambda start, out, seconds, rng: {code}, None)

    if says is None:
        assert disturb() == {0}
    else:
        with pytest.raises(AssertionError, match=says):
            disturb()


def test_a_run_folder_has_one_writer(tmp_path):
    settings = {"task": "sfera", "config": {"steps": 1}, "data": {}, "seed": 0, "parent": None}
    with Run(tmp_path / "run", settings), pytest.raises(RunError, match="is being trained by another process"):
        Run(tmp_path / "run", settings)
    with Run(tmp_path / "run", settings):                        # and then the next
        pass
    assert not (tmp_path / "run" / "lock").exists()


def test_a_table_and_a_dataset_have_one_writer(tmp_path, capsys):
    with files.one_writer(tmp_path / "x.csv.lock", ""):
        assert main(["predict", str(tmp_path), "--csv", str(tmp_path / "x.csv")]) == 2
    assert f"another process is writing {tmp_path / 'x.csv'}" in capsys.readouterr().err
    (tmp_path / "phantom").mkdir()
    with files.one_writer(tmp_path / "phantom/dsb_like.lock", ""):
        assert main(["build", "phantom", "--config", "dsb_like", "--data-dir", str(tmp_path)]) == 2
    assert "another process is building phantom/dsb_like" in capsys.readouterr().err


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    def half():
        with files.whole(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise OSError("full")

    files.write_text(tmp_path / "a.txt", "before")
    with pytest.raises(OSError, match="full"):
        half()
    assert [f.read_text() for f in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(("content", "kept"), [
    ("a,b\r\n1,2\r\n3,4\r\n", ["1", "3"]),
    ("a,b\r\n1,2\r\n3,4", ["1"]),                 # cut off, and it does not show in the number of its cells
    ("a,b\r\n1,2\r\n3", ["1"]),
    ("a,b", []),
    ("", []),
])
def test_a_row_that_was_cut_off_is_measured_again(tmp_path, content, kept):
    table = tmp_path / "x.csv"
    table.write_bytes(content.replace("a", "study_id").encode())
    assert list(rows_of(table, ("study_id", "b"))) == kept
