"""Trained models; `load` opens a run folder. Nothing here depends on `train`."""

from pathlib import Path

from cardiojax.errors import RunError
from cardiojax.models.contours import ContoursModel
from cardiojax.models.gaugan import GauganModel
from cardiojax.models.hybrid import HybridModel
from cardiojax.models.measuring import MeasuringModel
from cardiojax.models.saved import TASKS, read_config
from cardiojax.models.sfera import SferaModel

__all__ = ["ContoursModel", "GauganModel", "HybridModel", "MeasuringModel", "SferaModel", "load", "load_measuring"]

MODELS = {"sfera": SferaModel, "contours": ContoursModel, "hybrid": HybridModel, "gaugan": GauganModel}


def load(run: str | Path) -> SferaModel | ContoursModel | HybridModel | GauganModel:
    """Open a run folder, on any number of devices.

    `cardiojax.load("runs/rsp").predict("path/to/study").ef_percent`; `cardiojax.load("runs/gaugan").generate(masks)`.
    Raises RunError, in one line, where the folder is no run, is of another version or has no model yet.
    """
    return MODELS[read_config(Path(run))["task"]].load(run)


def load_measuring(run: str | Path) -> MeasuringModel:
    """`load` of a model that measures studies. Raises RunError for a GauGAN too."""
    model = load(run)
    if not isinstance(model, MeasuringModel):
        raise RunError(f"{run} is a {TASKS[model.settings['task']]} run, which measures nothing")
    return model
