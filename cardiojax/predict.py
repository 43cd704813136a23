"""A study → volumes with deviations, by a trained run. Records and files on disk go through this one path."""

import dataclasses
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import norm

from cardiojax import data, records
from cardiojax.config import Augment, Sfera, SferaNet
from cardiojax.data import Batch
from cardiojax.errors import RunError
from cardiojax.preprocess import SIZE_PX, prepare
from cardiojax.readers import read_study
from cardiojax.ridge import UNCALIBRATED, Calibration, Ridge
from cardiojax.study import Study
from cardiojax.train import run as runs
from cardiojax.train.sfera import Scaling, features_of, model_shapes, volumes

log = logging.getLogger("cardiojax")

# A study is referred to a person …
MIN_SLICES = 6             # with fewer slices, as in ukbb_cardiac's quality control
MIN_SPAN_MM = 60.0         # where they span less: of ACDC's and DSB's whole stacks one in fifty does
APEX_SHARE = 0.5           # where the last slice's LV has more of the largest: in whole stacks it has at most 0.4
FAR = 2.0                  # this many times farther from the training studies than any validation study was
WIDE_EF_PERCENT = 15.0     # where the deviation of EF is larger
COLUMNS = ("study_id", "edv_ml", "esv_ml", "ef_percent", "edv_std_ml", "esv_std_ml", "ef_std_percent",
           "refer", "reasons", "p_ef_below_40", "p_ef_below_50", "ed_frame", "es_frame")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """LV volumes of one study with standard deviations; `refer` where a person should look, with `reasons`.

    p_ef_below_40, p_ef_below_50: probabilities, of a normal distribution with these deviations.
    ed_frame, es_frame: 1-based phases of the cine that were measured, None where the study has two frames alone.
    """

    study_id: str
    edv_ml: float
    esv_ml: float
    ef_percent: float
    edv_std_ml: float
    esv_std_ml: float
    ef_std_percent: float
    refer: bool = False
    reasons: str = ""
    p_ef_below_40: float = math.nan
    p_ef_below_50: float = math.nan
    ed_frame: int | None = None
    es_frame: int | None = None

    def row(self) -> dict[str, str]:
        """As the CSVs hold it: two decimals, `refer` 0 or 1, nothing for None."""
        def text(value):
            if isinstance(value, float):
                return f"{value:.2f}"
            return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)

        return {c: text(getattr(self, c)) for c in COLUMNS}


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
        self.graph, params, stats = model_shapes(self.config.net)
        self.params = runs.into_state(params, arrays, "params")
        self.stats = runs.into_state(stats, arrays, "stats")
        self.scaling = Scaling(*(arrays[f"scaling/{f}"] for f in Scaling._fields))
        self.ridge = Ridge(*(arrays[f"ridge/{f}"] for f in Ridge._fields))
        self.calibration = UNCALIBRATED
        if "calibration/factor" in arrays:              # earlier runs lack it
            self.calibration = Calibration(*(arrays[f"calibration/{f}"] for f in Calibration._fields))
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
        return next(self.predictions([study], data.collate([sample])))

    def predict_split(self, split: data.Split, batch: int = 8) -> Iterator[tuple[Study, Prediction]]:
        """Every study of a split with its prediction, in order."""
        slices = data.max_slices(split)
        batches = data.evaluation_batches(split, size_px=self.config.net.size_px, batch=batch, slices=slices)
        for start, arrays in zip(range(0, len(split), batch), batches, strict=True):
            studies = [split.study(i) for i in range(start, min(start + batch, len(split)))]
            yield from zip(studies, self.predictions(studies, arrays), strict=True)

    def predictions(self, studies: list[Study], batch: Batch) -> Iterator[Prediction]:
        """Predictions of the studies of a batch, which may be padded with more."""
        features, areas = features_of(self.graph, self.params, self.stats, batch, self.config.views)
        found = volumes(self.ridge, self.calibration, self.scaling, features, batch.slice_spacing_mm)
        mean, std, ef, ef_std, distance = (np.asarray(a, np.float64) for a in found)
        areas = np.asarray(areas) * (self.scaling.high - self.scaling.low)
        for i, study in enumerate(studies):
            reasons = self._reasons(study, mean[i], float(ef_std[i]), float(distance[i]), areas[i, :len(study), 0])
            yield Prediction(
                study.study_id, *map(float, mean[i]), float(ef[i]), *map(float, std[i]), float(ef_std[i]),
                bool(reasons), "; ".join(reasons), *(float(norm.cdf(limit, ef[i], ef_std[i])) for limit in (40, 50)),
                *(study.frame_numbers or (None, None)))

    def _reasons(self, study: Study, mean_ml, ef_std: float, distance: float, ed_areas) -> list[str]:
        """Why a person should look at a study."""
        span_mm = len(study) * study.slice_spacing_mm
        apex = float(ed_areas[-1] / ed_areas.max()) if ed_areas.max() > 0 else 0.0
        seen = self.config.area_weight > 0              # the network was taught each slice's area
        checks = (
            (len(study) < MIN_SLICES, f"{len(study)} slices, fewer than {MIN_SLICES}"),
            (span_mm < MIN_SPAN_MM, f"the slices span {span_mm:.0f} mm, too little for base to apex"),
            (seen and len(study) > 1 and apex > APEX_SHARE,
             f"the apex seems to be missing (LV area of the last slice is {apex:.0%} of the largest)"),
            (not 0 <= mean_ml[1] < mean_ml[0], "predicted volumes are not physiological"),
            (distance > FAR, f"unlike the training studies ({distance:.1f} times as far as any validation study)"),
            (ef_std > WIDE_EF_PERCENT, f"EF is uncertain (± {ef_std:.0f} points)"))
        return [*study.notes, *(reason for found, reason in checks if found)]


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
