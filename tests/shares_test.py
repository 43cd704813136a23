"""What several processes of one command write, put together."""

import csv
import dataclasses

import pytest

from cardiojax.cli.predict import Predict, measure_share
from cardiojax.cli.shares import Parts
from cardiojax.errors import InputError

COLUMNS, CURVES = ("study_id", "edv_ml"), ("study_id", "phase", "lv_ml")


def write(file, *rows):
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def parts(folder, process, **more) -> Parts:
    return Parts(Predict((folder,), folder / "out.csv", curves=folder / "curves.csv", process=process, processes=2,
                         **more))


def test_parts_become_the_tables_of_one_process(tmp_path):
    """In the order of the studies; each study's phases stay as they are; those of archives come last."""
    for process, studies in enumerate((["c", "of an archive"], ["'=a", "d"])):
        own = parts(tmp_path, process)
        args = own.begin()
        assert not own.ended()
        write(args.csv, COLUMNS, *((s, "1") for s in studies))
        write(args.curves, CURVES, *((s, str(phase), "2") for s in studies for phase in (1, 2)))
        own.end(["b: broken"] if process else [])
    assert own.ended()
    order = {name: i for i, name in enumerate(("=a", "b", "c", "d"))}
    write(tmp_path / "out.csv", COLUMNS, ("d", "1"))         # of one that has joined them at the same time
    own.args = dataclasses.replace(own.args, resume=True)
    own.join(COLUMNS, CURVES, order)
    expected = ["'=a", "c", "d", "of an archive"]
    assert [row[0] for row in csv.reader((tmp_path / "out.csv").open())] == ["study_id", *expected]
    assert [tuple(row[:2]) for row in csv.reader((tmp_path / "curves.csv").open())] == [
        CURVES[:2], *((s, phase) for s in expected for phase in "12")]
    assert not own.folder.exists()
    own.join(COLUMNS, CURVES, order)                    # who comes at the same time finds nothing left to do
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5


def test_what_an_earlier_start_has_left_is_not_taken_for_this_ones(tmp_path):
    parts(tmp_path, 0).begin()
    parts(tmp_path, 0).end([])
    with pytest.raises(InputError, match="--resume"):
        parts(tmp_path, 0).begin()
    again = parts(tmp_path, 0, resume=True)
    again.begin()
    parts(tmp_path, 1).begin()
    parts(tmp_path, 1).end([])
    assert not again.ended()


def test_a_start_that_is_refused_joins_nothing(tmp_path):
    for process in range(2):
        parts(tmp_path, process).begin()
        write(parts(tmp_path, process).own / "volumes.csv", COLUMNS)
        parts(tmp_path, process).end([])
    with pytest.raises(InputError, match="--resume"):
        measure_share(parts(tmp_path, 1).args, None, None)
    assert not (tmp_path / "out.csv").exists()
