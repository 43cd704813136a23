"""Trained models; `load` opens one. Nothing here depends on `train`."""

from pathlib import Path

from cardiojax.errors import RunError
from cardiojax.models.contours import ContoursModel
from cardiojax.models.gaugan import GauganModel
from cardiojax.models.hybrid import HybridModel
from cardiojax.models.measuring import MeasuringModel
from cardiojax.models.saved import TASKS, opened
from cardiojax.models.sfera import SferaModel

__all__ = ["ContoursModel", "GauganModel", "HybridModel", "MeasuringModel", "SferaModel", "load", "load_measuring"]

MODELS = {"sfera": SferaModel, "contours": ContoursModel, "hybrid": HybridModel, "gaugan": GauganModel}


def load(run: str | Path) -> SferaModel | ContoursModel | HybridModel | GauganModel:
    """A trained model: one that ships, by its name (`cardiojax models` lists them), of a run folder, or of a file that
    `cardiojax export` wrote (also hf://OWNER/REPOSITORY/FILE). On any number of devices.

    `cardiojax.load("contours-small").predict("path/to/study").ef_percent`;
    `cardiojax.load("runs/gaugan").generate(masks)`.
    Raises RunError, in one line, where there is none, it is of another version or has no model yet.
    """
    settings, arrays, path = opened(run)
    return MODELS[settings["task"]].from_arrays(settings, arrays, path)


def load_measuring(run: str | Path) -> MeasuringModel:
    """`load` of a model that measures studies. Raises RunError for a GauGAN too."""
    model = load(run)
    if not isinstance(model, MeasuringModel):
        raise RunError(f"{run} is a {TASKS[model.settings['task']]} run, which measures nothing")
    return model
