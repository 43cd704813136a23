"""How contours and a SFERA are put together: shares and deviations, from studies that neither was trained on."""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cardiojax.data import Split, max_slices, open_split
from cardiojax.errors import DataError, RunError
from cardiojax.evaluate.metrics import with_ef
from cardiojax.models.contours import ContoursModel
from cardiojax.models.hybrid import Blend, HybridModel, blended, volumes_and_stds
from cardiojax.models.saved import write_config
from cardiojax.models.sfera import SferaModel
from cardiojax.train.calibration import MIN_STUDIES, fit_deviations

log = logging.getLogger("cardiojax")


def combine(contours_run: Path, sfera_run: Path, split_name: str, data_dir: Path, run: Path) -> HybridModel:
    """A new run folder of both models and their blend, fitted on a split. Raises InputError."""
    contours, sfera = ContoursModel.load(contours_run), SferaModel.load(sfera_run)
    if run.exists() and any(run.iterdir()):
        raise RunError(f"{run} is not empty")
    split = open_split(split_name, data_dir)
    for model in (contours, sfera):
        training = open_split(model.settings["data"]["training"], data_dir, need_volumes=False)
        if shared := training.ancestors & split.ancestors:
            raise DataError(f"{len(shared)} patients of {split_name} were trained on by {model.path}: "
                            f"{', '.join(sorted(shared)[:3])}")
    blend = fitted(contours, sfera, split)
    run.mkdir(parents=True, exist_ok=True)
    settings = {"task": "hybrid", "contours": contours.settings, "sfera": sfera.settings,
                "data": {"blend": split_name}, "seed": contours.settings["seed"], "parent": None,
                "parents": [str(contours_run), str(sfera_run)]}
    model = HybridModel(contours, sfera, blend, run, settings)
    model.save(run / "model.npz")
    write_config(run, settings)
    log.info("of EDV %.0f %% are the contours', of ESV %.0f %%; both EFs usually differ by %.1f points",
             *(100 * blend.weight), blend.usual_difference_percent)
    return model


def fitted(contours: ContoursModel, sfera: SferaModel, split: Split) -> Blend:
    """The blend of a split's studies. Raises DataError where they are too few."""
    slices = max_slices(split)
    both = [volumes_and_stds([p for _, p in m.predict_many(split, slices=slices)]) for m in (contours, sfera)]
    return fit(*both, split.volumes_ml.astype(np.float64))


def fit(contours: Float[np.ndarray, "n 4"], sfera: Float[np.ndarray, "n 4"], truth_ml: Float[np.ndarray, "n 2"]
        ) -> Blend:
    """`contours`, `sfera`: rows of EDV, ESV and their deviations; truth: EDV and ESV (ml)."""
    if len(truth_ml) < MIN_STUDIES:
        raise DataError(f"{len(truth_ml)} studies; a blend is fitted on {MIN_STUDIES} or more")
    truth = with_ef(truth_ml)
    weight = np.array([share(contours[:, k] - truth_ml[:, k], sfera[:, k] - truth_ml[:, k]) for k in (0, 1)])
    raw = Blend(weight, np.ones(3), np.float32(0), np.float32(0))
    mean, std, _, _ = blended(contours, sfera, raw)
    difference = with_ef(contours[:, :2])[:, 2] - with_ef(sfera[:, :2])[:, 2]
    return Blend(weight.astype(np.float32), *fit_deviations(mean, std, truth),
                 np.float32(np.sqrt(np.nanmean(difference**2))))


def share(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> float:
    """Of two estimates with these errors the first's share in the mean with the least squared error, within [0, 1]:
    (E b² − E ab) / (E a² + E b² − 2 E ab)."""
    apart = ((first - second)**2).mean()
    return float(np.clip((second * (second - first)).mean() / apart, 0, 1)) if apart else 0.5
