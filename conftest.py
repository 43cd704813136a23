"""Eight fake devices everywhere, one compilation cache, nothing optimised: tests check numbers, not speed.

On a machine with a GPU, `JAX_PLATFORMS=cuda python -m pytest -m gpu` compares it with the CPU, and resumes there.
"""

import collections
import gc
import json
import os
import signal
import tempfile
import types
from pathlib import Path

DEVICES = 8
FAKE = f"--xla_force_host_platform_device_count={DEVICES}"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '').replace(FAKE, '')} {FAKE}".strip()
gc.set_threshold(100_000, 50, 50)          # tracing makes objects by the million, and they stay
platforms = os.environ.get("JAX_PLATFORMS", "cpu").split(",")
os.environ["JAX_PLATFORMS"] = ",".join(dict.fromkeys([*platforms, "cpu"]))       # what a GPU is compared with
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "cardiojax-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if platforms == ["cpu"]:
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")           # in the commands that tests start, too
else:
    os.environ["XLA_FLAGS"] += " --xla_gpu_deterministic_ops=true"         # for "to the bit"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")        # several of them at a time

import beartype  # noqa: E402
import filelock  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# types are checked, in tests alone, in modules that annotate shapes; as type checkers have it, an int is a float
checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
ROOT = Path(__file__).parent
SHAPED = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted(ROOT.glob("cardiojax/**/*.py"))
          if "\nfrom jaxtyping import" in file.read_text()]
jaxtyping.install_import_hook(SHAPED, f"{__name__}.checked")


def pytest_collection_modifyitems(items):
    """Files with the most slow tests first, so that none of them is left alone for the end of a run on two processes
    (--dist loadfile --no-loadscope-reorder)."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (-slow[item.path], str(item.path)))


@pytest.fixture
def gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("no GPU here, or not asked for: JAX_PLATFORMS=cuda python -m pytest -m gpu")


def terminate_at(parallel, step: int):
    """The process gets SIGTERM as its `step`-th step begins."""
    original, count = parallel.step, [0]

    def interrupting(*args):
        count[0] += 1
        if count[0] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    parallel.step = interrupting


SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def shared() -> Path:
    """The real data kept beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the real data is not here (../shared/data)")
    return SHARED


def built_phantom(tmp_path_factory, *words: str, train: int, validation: int, test: int) -> Path:
    """`build phantom` with so few studies in each split; the folder, made once for all test processes."""
    import data_builders  # noqa: F401
    from cardiojax.cli.main import main
    from data_builders.phantom import phantom_dataset_builder as module

    base = tmp_path_factory.getbasetemp()
    shared_folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared_folder / "_".join(["phantom", *words, *map(str, (train, validation, test))])
    with filelock.FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SPLITS", {
            "train": (0, train), "validation": (train, validation), "test": (train + validation, test)})
        assert (folder / "built").exists() or main(["build", "phantom", *words, "--data-dir", str(folder)]) == 0
        (folder / "built").touch()
    return folder


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory) -> Path:
    """A small phantom dataset: 12 / 4 / 4 studies of `phantom/dsb_like`, to read."""
    return built_phantom(tmp_path_factory, "--config", "dsb_like", train=12, validation=4, test=4)


@pytest.fixture(scope="session")
def two_datasets(tmp_path_factory) -> Path:
    """Both phantom datasets: 8 / 4 / 3 studies, to read."""
    return built_phantom(tmp_path_factory, train=8, validation=4, test=3)


@pytest.fixture
def acdc_patient():
    """Writes one invented patient in ACDC's layout: an LV of 8 × 8 pixels at ED and 5 × 5 at ES on every slice."""
    def write(folder: Path, shape=(20, 24, 6), label=3, info="ED: 1\nES: 2\nGroup: NOR\n",
              spacing=(1.5, 1.5, 10.0)) -> Path:
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text(info)
        rng = np.random.default_rng(0)
        for frame, size in ((1, 8), (2, 5)):
            truth = np.zeros(shape, np.uint8)
            truth[4:4 + size, 6:6 + size] = label
            for data, name in ((rng.uniform(0, 200, shape).astype(np.float32), ""), (truth, "_gt")):
                out = nib.Nifti1Image(data, np.diag([-1.0, -1, 1, 1]))      # as published: no spacing in the affine
                out.header["pixdim"][1:4] = spacing
                out.header["sform_code"] = 2
                nib.save(out, folder / f"{folder.name}_frame{frame:02d}{name}.nii.gz")
        return folder
    return write


@pytest.fixture
def pictures_of(monkeypatch):
    """Executes a notebook on the folder of an experiment; how many pictures it shows. optimised: where networks of
    their full size would take longer to run than to compile."""
    def execute(name: str, experiment: Path, optimised: bool = False) -> int:
        import nbformat
        from nbclient import NotebookClient

        file = ROOT / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(file, as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells), "committed with outputs"
        monkeypatch.setenv("CARDIOJAX_EXPERIMENT", str(experiment))
        monkeypatch.setenv("XLA_FLAGS", "")                # on one device, as on a laptop
        monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0" if optimised else "1")
        NotebookClient(notebook, timeout=900, kernel_name="python3",
                       resources={"metadata": {"path": str(file.parent)}}).execute()
        return sum("image/png" in output.get("data", {}) for cell in notebook.cells
                   for output in cell.get("outputs", []))
    return execute


def undrawn(patch: pytest.MonkeyPatch):
    """Evaluations without their figures and page."""
    from cardiojax.evaluate import report
    patch.setattr(report, "figures", types.SimpleNamespace(scatter=lambda *given: None,
                                                           bland_altman=lambda *given: None))
    patch.setattr(report, "finish", lambda title, result, tables, out, pictures: (out / "metrics.json").write_text(
        json.dumps(result)))
