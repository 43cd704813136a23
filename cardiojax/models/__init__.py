"""Trained models; `load` opens a run folder. Nothing here depends on `train`."""

from pathlib import Path

from cardiojax.models.gaugan import GauganModel
from cardiojax.models.saved import read_config
from cardiojax.models.sfera import SferaModel

__all__ = ["GauganModel", "SferaModel", "load"]


def load(run: str | Path) -> SferaModel | GauganModel:
    """Open a run folder, on any number of devices.

    `cardiojax.load("runs/rsp").predict("path/to/study").ef_percent`; `cardiojax.load("runs/gaugan").generate(masks)`.
    Raises RunError, in one line, where the folder is no run, is of another version or has no model yet.
    """
    task = read_config(Path(run))["task"]
    return GauganModel.load(run) if task == "gaugan" else SferaModel.load(run)
