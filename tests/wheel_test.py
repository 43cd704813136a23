"""What `pip install cardiojax` brings."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_the_code_and_what_it_reads_and_no_tests(tmp_path):
    pytest.importorskip("setuptools", "77")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("cardiojax", "data_builders", "launch", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('wheel')"],
                   cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = (source / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        points = archive.read(next(f for f in files if f.endswith("entry_points.txt"))).decode()
    assert {f.partition("/")[0].partition("-")[0] for f in files} == {"cardiojax", "data_builders"}
    assert not [f for f in files if "test" in Path(f).name]
    wanted = {str(f.relative_to(ROOT)) for package in ("cardiojax", "data_builders")
              for f in (ROOT / package).rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert {f for f in files if ".dist-info/" not in f} == wanted              # py.typed, templates, READMEs, citations
    assert any(f.endswith("licenses/LICENSE") for f in files)
    assert "[cardiojax.builders]" in points
    assert "acdc = data_builders.acdc.acdc_dataset_builder" in points
