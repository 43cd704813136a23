"""A study → volumes with deviations, by a trained run. Records and files on disk go through this one path."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cardiojax import data, records
from cardiojax.config import Augment, Sfera, SferaNet
from cardiojax.data import Batch
from cardiojax.errors import RunError
from cardiojax.preprocess import SIZE_PX, prepare
from cardiojax.readers import read_study
from cardiojax.ridge import Ridge
from cardiojax.study import Study
from cardiojax.train import run as runs
from cardiojax.train.sfera import Scaling, features_of, split_model

log = logging.getLogger("cardiojax")

MIN_SLICES = 6             # fewer and the study is referred, as ukbb_cardiac's quality control does
COLUMNS = ("study_id", "edv_ml", "esv_ml", "ef_percent", "edv_std_ml", "esv_std_ml", "ef_std_percent",
           "refer", "reasons")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """LV volumes of one study with standard deviations; `refer` where a person should look, with `reasons`."""

    study_id: str
    edv_ml: float
    esv_ml: float
    ef_percent: float
    edv_std_ml: float
    esv_std_ml: float
    ef_std_percent: float
    refer: bool = False
    reasons: str = ""

    def row(self) -> dict[str, str]:
        """As the CSVs hold it: two decimals, `refer` 0 or 1."""
        return {c: f"{v:.2f}" if isinstance(v := getattr(self, c), float) else str(int(v)) if c == "refer" else v
                for c in COLUMNS}


class Predictor:
    """A trained SFERA run, on whatever devices are here. See `load`."""

    def __init__(self, path: Path):
        """Raises RunError where `path` is no finished SFERA run."""
        self.path = Path(path)
        self.settings = runs.read_config(self.path)
        if self.settings["task"] != "sfera":
            raise RunError(f"{path} is a {self.settings['task']} run, not a SFERA run")
        self.config = sfera_config(self.settings["config"])
        arrays = runs.read_arrays(self.path / "model.npz")
        self.graph, params, stats, self.rest = split_model(self.config.net, nnx.Rngs(0))
        self.params = runs.into_state(params, arrays, "params")
        self.stats = runs.into_state(stats, arrays, "stats")
        self.scaling = Scaling(*(arrays[f"scaling/{f}"] for f in Scaling._fields))
        self.ridge = Ridge(*(arrays[f"ridge/{f}"] for f in Ridge._fields))
        self.mean_predictor = arrays["mean_predictor"]

    def predict(self, study: str | Path | Study, centre: str = "motion") -> Prediction:
        """Volumes of one study: a path that a reader knows, or a `Study` (as read, or prepared).

        `centre`: how the heart is found in images as read (`preprocess.prepare`); the builders' default.
        """
        if not isinstance(study, Study):
            study = read_study(Path(study))
        if study.frames.dtype != np.uint8 or study.frames.shape[1] != SIZE_PX:
            study = prepare(study, centre)
        sample = data.sample(records.encode(study), self.config.net.size_px, -(-len(study) // 4) * 4)
        return next(self.predictions([study.study_id], [len(study)], data.collate([sample])))

    def predict_split(self, split: data.Split, batch: int = 8) -> Iterator[tuple[Study, Prediction]]:
        """Every study of a split with its prediction, in order."""
        slices = data.max_slices(split)
        batches = data.evaluation_batches(split, size_px=self.config.net.size_px, batch=batch, slices=slices)
        for start, arrays in zip(range(0, len(split), batch), batches, strict=True):
            studies = [split.study(i) for i in range(start, min(start + batch, len(split)))]
            yield from zip(studies, self.predictions([s.study_id for s in studies], [len(s) for s in studies],
                                                     arrays), strict=True)

    def predictions(self, study_ids: list[str], n_slices: Iterable[int], batch: Batch) -> Iterator[Prediction]:
        """Predictions of the first `len(study_ids)` studies of a batch."""
        mean, std, ef, ef_std = (np.asarray(a, np.float64) for a in self._volumes(batch))
        for i, (study_id, n) in enumerate(zip(study_ids, n_slices, strict=True)):
            reasons = []
            if n < MIN_SLICES:
                reasons.append(f"{n} slices, fewer than {MIN_SLICES}")
            if not 0 <= mean[i, 1] < mean[i, 0]:
                reasons.append("predicted volumes are not physiological")
            yield Prediction(study_id, *map(float, mean[i]), float(ef[i]), *map(float, std[i]), float(ef_std[i]),
                             bool(reasons), "; ".join(reasons))

    def _volumes(self, batch: Batch):
        features = features_of(self.graph, self.rest, self.params, self.stats, batch, self.config.views)
        return volumes(self.ridge, self.scaling, features, batch.slice_spacing_mm)


@jax.jit
def volumes(ridge: Ridge, scaling: Scaling, features, spacing_mm):
    """Features → volumes (ml), their deviations, EF (percent) and its deviation by the delta method."""
    scaled, scaled_std = ridge.predict(features)
    mean, std = scaling.to_ml(scaled, spacing_mm), scaling.std_ml(scaled_std, spacing_mm)
    edv = jnp.where(mean[:, 0] > 0, mean[:, 0], jnp.nan)
    ratio = mean[:, 1] / edv
    variance = std[:, 1]**2 + (ratio * std[:, 0])**2 - 2 * ridge.residual_corr * ratio * std[:, 0] * std[:, 1]
    return mean, std, 100 * (1 - ratio), 100 / edv * jnp.sqrt(jnp.maximum(variance, 0.0))


def sfera_config(settings: dict) -> Sfera:
    """The config of a run from its config.json. Raises RunError where this version does not know a setting."""
    try:
        return Sfera(**{**settings, "net": SferaNet(**settings["net"]), "augment": Augment(**settings["augment"])})
    except (TypeError, KeyError) as error:
        raise RunError(f"the run's settings are not this version's ({error})") from None


def load(run: str | Path):
    """Open a run folder: a `Predictor` of a SFERA run, a `generate.Synthesizer` of a GauGAN.

    `cardiojax.load("runs/rsp").predict("path/to/study").ef_percent`; `cardiojax.load("runs/gaugan").generate(masks)`.
    Raises RunError, in one line, where the folder is no run, is of another version or has no model yet.
    """
    settings = runs.read_config(Path(run))
    if settings["task"] == "gaugan":
        from cardiojax.generate import open_run
        return open_run(Path(run), settings)
    return Predictor(Path(run))
