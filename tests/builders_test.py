"""Datasets of other packages, found by entry point; and whose study is whose."""

import importlib
import logging
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest

from cardiojax import data
from cardiojax.cli.main import main
from cardiojax.data import builders, records
from cardiojax.data.study_builder import StudyBuilder
from cardiojax.errors import DataError
from cardiojax.study import Study
from cardiojax.synthesis import cohort

TOY = '''
    """Toy: ten studies of noise."""

    import numpy as np

    from cardiojax.study import Study
    from cardiojax.data.study_builder import StudyBuilder


    class Builder(StudyBuilder):
        """Two visits of each of five patients."""

        needs_source = False

        @staticmethod
        def patient_of(study_id):
            return study_id.partition("v")[0]

        def _split_generators(self, dl_manager):
            return self._splits({split: [(f"{p}v{v}", lambda p=p, v=v: read(f"{p}v{v}")) for p in patients
                                         for v in (1, 2)]
                                 for split, patients in (("train", range(3)), ("validation", range(3, 5)))})


    def read(study_id):
        rng = np.random.default_rng(0)
        return Study(study_id=study_id, frames=rng.uniform(0, 9, (5, 40, 40, 2)), slice_spacing_mm=8.0,
                     volumes_ml=np.array([120.0, 50.0]))
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes a package with these modules and entry points as an installer leaves it: code and *.dist-info."""
    def install(name: str, points: dict[str, str], modules: dict[str, str]):
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[{builders.GROUP}]\n" + "".join(f"{n} = {module}\n" for n, module in points.items()))
        for module, text in modules.items():
            (site / f"{module}.py").write_text(textwrap.dedent(text))
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
    return install


def test_importing_our_builders_registers_each_of_them_with_tfds():
    import tensorflow_datasets as tfds

    import data_builders

    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    names = pyproject["project"]["entry-points"][builders.GROUP]
    assert data_builders.__all__ == sorted(f"{name}_dataset_builder" for name in names)
    for name in names:
        assert issubclass(tfds.builder_cls(name), StudyBuilder)


def test_a_dataset_of_another_package_is_built_and_opened(installed, tmp_path, capsys):
    installed("toys", {"toy": "toy_dataset_builder"}, {"toy_dataset_builder": TOY})
    with pytest.raises(SystemExit) as stop:
        main(["build", "--help"])
    assert not stop.value.code
    assert "Datasets: acdc, kaggle_dsb, mnms, phantom, reports, synthetic, toy, ukbb." in " ".join(
        capsys.readouterr().out.split())
    with pytest.raises(DataError, match="dataset 'toy' is not built"):
        data.open_split("toy:train", tmp_path / "data")
    assert main(["build", "toy", "--config", "full", "--data-dir", str(tmp_path / "data")]) == 0
    train, validation = data.open_pair("toy:train", None, tmp_path / "data")
    assert (len(train), len(validation)) == (6, 4)
    assert train.ancestors == {"toy/0", "toy/1", "toy/2"}


def test_a_broken_builder_is_one_line_and_breaks_no_other(installed, tmp_path, capsys):
    installed("toys", {"toy2": "toy2_dataset_builder", "a_broken": "broken", "b_gone": "no_such_module",
                       "c_none": "nothing", "d_other": "d_other_dataset_builder"},
              {"toy2_dataset_builder": TOY, "broken": "raise SystemError('no\\nluck')\n", "nothing": "",
               "d_other_dataset_builder": """
                   import tensorflow_datasets as tfds

                   class Builder(tfds.core.GeneratorBasedBuilder):
                       VERSION = tfds.core.Version("1.0.0")
                       _info = _split_generators = _generate_examples = None
                   """})
    assert main(["build", "toy2", "--config", "full", "--data-dir", str(tmp_path / "data")]) == 0
    lines = capsys.readouterr().err.splitlines()
    for name, says in (("a_broken", "cannot be imported (SystemError: no luck)"),
                       ("b_gone", "cannot be imported (ModuleNotFoundError"),
                       ("c_none", "registers no builder of that name"), ("d_other", "is no StudyBuilder")):
        assert len([line for line in lines if name in line and says in line]) == 1, (name, lines)


def test_without_a_name_or_with_a_wrong_one_the_datasets_are_listed(capsys):
    listed = "acdc, kaggle_dsb, mnms, phantom, reports, synthetic, ukbb"
    for words, says in (([], "build what? There are"), (["--data-dir", "x"], "build what? There are"),
                        (["nothing"], "no dataset 'nothing'; there are"),
                        (["--data-dir", "x", "nothing"], "no dataset 'nothing'; there are")):
        assert main(["build", *words]) == 2
        assert f"cardiojax: error: {says} {listed}" in capsys.readouterr().err.splitlines()


def test_own_builders_are_found_without_metadata_and_keep_their_names(installed, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("cardiojax"), "propagate", True)
    own = {name: point.value for name, point in builders.entry_points().items()}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
    assert {name: point.value for name, point in builders.entry_points().items()} == own
    assert set(builders.builder_classes()) == set(own) == {
        "acdc", "kaggle_dsb", "mnms", "phantom", "reports", "synthetic", "ukbb"}
    monkeypatch.undo()
    monkeypatch.setattr(logging.getLogger("cardiojax"), "propagate", True)
    installed("other", {"acdc": "elsewhere"}, {})
    assert builders.entry_points()["acdc"].value == own["acdc"]
    assert "dataset acdc: builder elsewhere left out" in caplog.text


def test_pyproject_declares_every_builder():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][builders.GROUP] == {
        name: point.value for name, point in builders.entry_points().items()}


def visit(study_id: str, ancestor: str = "", source: str = "ukbb") -> Study:
    return Study(study_id=study_id, frames=np.zeros((5, 150, 150, 2), np.uint8), slice_spacing_mm=8.0, source=source,
                 ancestor=ancestor, volumes_ml=np.array([120.0, 50.0]))


@pytest.mark.parametrize(("study", "patient"), [
    (visit("9000001"), "ukbb/9000001"), (visit("9000001_3_0"), "ukbb/9000001"),
    (visit("9000001_3_0_es05", "9000001_3_0"), "ukbb/9000001"),
    (visit("site_3_0", source="acdc"), "acdc/site_3_0"), (visit("a_3_0", source="elsewhere"), "elsewhere/a_3_0")])
def test_participants_not_visits_are_patients(study, patient):
    """Also of a visit's descendants. Other datasets' ids mean what they say, and so do those of unknown ones."""
    assert data.usable("x", [records.encode(study)]).ancestors == {patient}


def test_a_repeat_visit_in_the_other_split_is_refused(monkeypatch, tmp_path):
    splits = {"ukbb:train": [visit("9000001"), visit("9000002")], "ukbb:validation": [visit("9000001_3_0")],
              "synthetic:train": [visit("9000001_3_0_es01", "9000001_3_0")]}
    monkeypatch.setattr("cardiojax.data.split._open_one", lambda spec, _: [records.encode(s) for s in splits[spec]])
    for pair in (("ukbb:train", None), ("synthetic:train", "ukbb:train")):
        with pytest.raises(DataError, match=r"1 patients are in both .*: ukbb/9000001"):
            data.open_pair(*pair, tmp_path)


def test_a_cohort_does_not_spread_a_participants_visits():
    cohort.check_disjoint({"train": [visit("9000001"), visit("9000001_3_0")], "validation": [visit("9000002")]})
    with pytest.raises(DataError, match="patient ukbb/9000001 is in both train and validation"):
        cohort.check_disjoint({"train": [visit("9000001")], "validation": [visit("9000001_3_0")]})
