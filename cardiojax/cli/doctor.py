"""`cardiojax doctor`: what this installation is, and whether it measures."""

import dataclasses
import importlib.util
import os
import platform
import shutil
import time
from pathlib import Path

import tyro

EXTRAS = {"compressed": "gdcm", "dicom": "highdicom", "hub": "huggingface_hub", "port": "h5py", "beam": "apache_beam",
          "notebooks": "nbclient", "torch": "torch"}


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Print versions, devices, caches and extras, and measure a phantom study with the model that ships.

    Paste it into a bug report. Exit code 1 where something is wrong.
    """


def main(argv: list[str]) -> int:
    tyro.cli(Doctor, args=argv, prog="cardiojax doctor")
    import jax

    from cardiojax.machine import usable_cores
    from cardiojax.provenance import commit, versions

    print(f"cardiojax     {versions()['cardiojax']}, commit {commit()[:12] or 'unknown'}")
    print(f"Python        {platform.python_version()}, {platform.platform()}, {usable_cores()} cores to use")
    print("versions      " + ", ".join(f"{name} {v}" for name, v in versions().items() if name != "cardiojax"))
    print("devices       " + ", ".join(f"{d.device_kind} ({d.platform})" for d in jax.devices()))
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    print(f"cache         {cache}{'' if cache.is_dir() else ' (empty yet)'}")
    print(f"disk          {shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free here")
    there = {extra: importlib.util.find_spec(module) is not None for extra, module in EXTRAS.items()}
    print("extras        " + ", ".join(f"{extra} {'yes' if found else 'no'}" for extra, found in there.items()))
    nvidia = shutil.which("nvidia-smi") is not None
    if nvidia and jax.default_backend() == "cpu":
        print("warning       there is an NVIDIA GPU that JAX does not see: pip install 'cardiojax[cuda]'")
    try:
        said, fine = self_test(), True
    except Exception as error:                          # whatever it is, it belongs into the report
        said, fine = f"failed: {type(error).__name__}: {error}", False
    print(f"self-test     {said}")
    return 0 if fine else 1


def self_test() -> str:
    """Reads a phantom study out of DICOM and measures it; raises where its volumes are not what they should be."""
    import tempfile

    from cardiojax.models import load_measuring
    from cardiojax.models.shipped import DEFAULT
    from cardiojax.phantom.dicom import write_study
    from cardiojax.readers import read_study

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cardiojax-") as room:
        ed, es, truth_ml = write_study(Path(room), "dsb_like", 0, "phantom", phases=2, other_views=False)
        p = load_measuring(DEFAULT).predict(read_study(Path(room) / "phantom", (ed, es)))
    if not 0.7 < p.edv_ml / truth_ml[0] < 1.5:
        raise ValueError(f"the phantom's EDV is {truth_ml[0]:.0f} ml, and {p.edv_ml:.0f} ml were measured")
    seconds = time.monotonic() - began
    return f"a phantom study from DICOM: EDV {p.edv_ml:.0f} ml, EF {p.ef_percent:.0f} %, {seconds:.0f} s"

