"""Trained contours: studies → masks, and volumes from the probabilities behind them; ED and ES of a cine."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from cardiojax.config import AugmentConfig, ContoursConfig, ContoursNetConfig
from cardiojax.errors import RunError
from cardiojax.files import write_arrays
from cardiojax.models.curve import Curve
from cardiojax.models.looks import Seen, as_images, first_look, network_shapes, second_look
from cardiojax.models.measuring import MeasuringModel
from cardiojax.models.prediction import Prediction, difference_std, ef_with_std, p_below, reasons_to_refer
from cardiojax.models.saved import flatten, into_state, opened
from cardiojax.preparation import SIZE_PX, prepare
from cardiojax.preparation.batch import Batch, batch_of, padded_slices
from cardiojax.study import Cine, Study
from cardiojax.units import LV, MYOCARDIUM, MYOCARDIUM_G_PER_ML, RV

PHASES = 4                 # of a cine that are looked at in one call; also, spread over it, to find the heart


class SoftCalibration(NamedTuple):
    """Corrections from the validation studies.

    scale (2,): what EDV and ESV are multiplied by, so that they are right in sum. factor (3,): what the deviations of
    EDV and ESV, and then EF, are multiplied by to explain the errors. residual_corr (): correlation of the errors of
    EDV and ESV, in units of their deviations.
    """

    scale: Array
    factor: Array
    residual_corr: Array


UNCALIBRATED = SoftCalibration(np.ones(2, np.float32), np.ones(3, np.float32), np.float32(0.0))


class Measured(NamedTuple):
    """Of a batch of studies. mean_ml, std_ml (B, 2): EDV and ESV. ef_percent, ef_std_percent (B,), NaN where EDV is not
    positive. seen: with T = 2 phases, ED and ES."""

    mean_ml: Array
    std_ml: Array
    ef_percent: Array
    ef_std_percent: Array
    seen: Seen


def volumes_of(seen: Seen, calibration: SoftCalibration, spacing_mm: Float[Array, " b"]) -> Measured:
    """Areas by probability × slice spacing. What is unsure of a volume (Σ p (1 − p)) is its deviation, up to a
    factor: a blurred border adds little to it, a slice that may or may not be ventricle much."""
    def volume_ml(areas_mm2):
        return areas_mm2[..., LV].sum(1) * spacing_mm[:, None] / 1000

    mean, std = volume_ml(seen.areas_mm2) * calibration.scale, volume_ml(seen.unsure_mm2) * calibration.factor[:2]
    ef, ef_std = ef_with_std(mean, std, calibration.residual_corr)
    return Measured(mean, std, ef, ef_std * calibration.factor[2], seen)


def measured(net: ContoursNetConfig, views: int, weights: tuple[Array, ...], calibration: SoftCalibration, batch: Batch
             ) -> Measured:
    """Volumes and labels of a batch of prepared studies. `weights`: the leaves of parameters and statistics."""
    mesh = getattr(getattr(batch.frames, "sharding", None), "mesh", None)          # of a batch over several devices
    return _measuring(net, views, mesh)(weights, calibration, batch.frames, batch.n_slices, batch.slice_spacing_mm)


@functools.cache
def _measuring(net: ContoursNetConfig, views: int, mesh: Mesh | None) -> Callable[..., Measured]:
    """Of arrays alone: one program for all batches of a shape. Each device of a mesh sees its own studies."""
    def of(weights, calibration, frames, n_slices, slice_spacing_mm):
        networks, images = _networks(net, weights), as_images(frames, net.neighbours)
        centre_px = first_look(networks, images, n_slices, views)
        seen = second_look(networks, images, n_slices, centre_px, views)
        return volumes_of(seen, calibration, slice_spacing_mm)

    if mesh is not None:
        whole, split = PartitionSpec(), PartitionSpec(*mesh.axis_names)
        of = jax.shard_map(of, mesh=mesh, in_specs=(whole, whole, split, split, split), out_specs=split,
                           check_vma=False)
    return jax.jit(of)


@functools.partial(jax.jit, static_argnums=0)
def _heart(net: ContoursNetConfig, weights: tuple[Array, ...], frames, n_slices) -> Array:
    return first_look(_networks(net, weights), as_images(frames, net.neighbours), n_slices, 1)


@functools.partial(jax.jit, static_argnums=0)
def _seen(net: ContoursNetConfig, weights: tuple[Array, ...], frames, n_slices, centre_px) -> tuple[Array, Array]:
    seen = second_look(_networks(net, weights), as_images(frames, net.neighbours), n_slices, centre_px, 1)
    return seen.areas_mm2, seen.labels


def _networks(net: ContoursNetConfig, weights: tuple[Array, ...]) -> nnx.Dict:
    graph, *shapes = network_shapes(net)
    return nnx.merge(graph, *jax.tree.unflatten(jax.tree.structure(tuple(shapes)), weights), copy=True)


class ContoursModel(MeasuringModel):
    """Trained contours as a value: two networks and a calibration, their arrays on the device.

    `apply` is pure and batched; `predict` takes a study or a whole cine from anywhere and gives its masks too; `curve`:
    the volumes of every phase. See `cardiojax.load`.
    """

    sees_masks = True

    def __init__(self, config: ContoursConfig, labels: tuple[int, ...], params: nnx.State, stats: nnx.State,
                 calibration: SoftCalibration, mean_predictor: Float[np.ndarray, "3"], path: Path | None = None,
                 settings: dict[str, Any] | None = None):
        """labels: those that the masks of its training held."""
        self.config, self.labels, self.path, self.settings = config, labels, path, settings or {}
        self.graph = network_shapes(config.net)[0]
        self.params, self.stats, self.calibration = jax.device_put((params, stats, calibration))
        self.mean_predictor = np.asarray(mean_predictor)
        self._weights = tuple(jax.tree.leaves((self.params, self.stats)))

    @classmethod
    def load(cls, path: str | Path) -> "ContoursModel":
        """As `cardiojax.load`. Raises RunError where `path` is no finished contours run."""
        return cls.from_arrays(*opened(path, "contours"))

    @classmethod
    def from_arrays(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> "ContoursModel":
        """Of a run's config.json and the arrays of its model.npz. Raises RunError where they do not fit."""
        config = contours_config(settings["config"])
        _, params, stats = network_shapes(config.net)
        try:
            calibration = SoftCalibration(*(arrays[f"calibration/{field}"] for field in SoftCalibration._fields))
            mean_predictor = arrays["mean_predictor"]
        except KeyError as error:
            raise RunError(f"the model of {path} lacks {error}") from None
        return cls(config, tuple(settings["labels"]), into_state(params, arrays, "params"),
                   into_state(stats, arrays, "stats"), calibration, mean_predictor, path, settings)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of its arrays by the names that model.npz has."""
        return flatten({"params": self.params, "stats": self.stats, "calibration": self.calibration,
                        "mean_predictor": self.mean_predictor})

    def save(self, file: Path):
        """Write model.npz atomically."""
        write_arrays(file, self.arrays())

    def on(self, device: Any) -> "ContoursModel":
        """The same model with its arrays on `device`, a jax.Device."""
        there = jax.device_put((self.params, self.stats, self.calibration), device)
        return ContoursModel(self.config, self.labels, *there, self.mean_predictor, self.path, self.settings)

    def apply(self, batch: Batch) -> Measured:
        """Volumes and labels of a batch of prepared studies, in one call to the device; the result stays there."""
        return measured(self.config.net, self.config.views, self._weights, self.calibration, batch)

    def predictions(self, studies: Sequence[Study], fill_to: int = 0, slices: int = 0) -> Iterator[Prediction]:
        """Predictions of one batch of prepared studies, each with the masks seen in its `study`."""
        batch = batch_of(studies, SIZE_PX, fill_to=fill_to, slices=slices)
        *numbers, seen = jax.device_get(self.apply(batch))
        mean, std, ef, ef_std = (np.asarray(a, np.float64) for a in numbers)
        for i, study in enumerate(studies):
            n = len(study)
            volumes_ml = seen.areas_mm2[i].sum(0) * study.slice_spacing_mm / 1000                # (phase, label)
            reasons = reasons_to_refer(study, mean_ml=mean[i], ef_std_percent=ef_std[i], distance=0.0,
                                       ed_area=seen.areas_mm2[i, :n, 0, LV])
            rv = map(float, volumes_ml[:, RV]) if RV in self.labels else (None, None)
            mass_g = float(volumes_ml[0, MYOCARDIUM]) * MYOCARDIUM_G_PER_ML if MYOCARDIUM in self.labels else None
            yield Prediction(
                study.study_id, *map(float, mean[i]), float(ef[i]), *map(float, std[i]), float(ef_std[i]),
                bool(reasons), "; ".join(reasons), *(p_below(limit, ef[i], ef_std[i]) for limit in (40.0, 50.0)),
                *(study.frame_numbers or (None, None)), *rv, mass_g,
                sv_std_ml=difference_std(std[i], np.asarray(self.calibration.residual_corr)), model=self.name,
                study=study.replace(masks=np.moveaxis(seen.labels[i, :n], 1, -1)))

    def curve(self, cine: Cine) -> Curve:
        """The volumes of every phase of a cine as read (uncalibrated; one view), and what was seen in them."""
        whole = prepare(cine)
        frames, n_slices = _padded(whole.frames), np.array([len(whole.frames)], np.int32)
        phases = frames.shape[-1]
        some = np.linspace(0, phases, PHASES, endpoint=False).astype(int)
        centre_px = _heart(self.config.net, self._weights, frames[..., some], n_slices)
        parts = [jax.device_get(_seen(self.config.net, self._weights,
                                      frames[..., np.minimum(np.arange(at, at + PHASES), phases - 1)], n_slices,
                                      centre_px)) for at in range(0, phases, PHASES)]
        areas, labels = (np.concatenate(part, axis=2)[0, :, :phases] for part in zip(*parts, strict=True))
        volumes_ml = areas.sum(0) * cine.slice_spacing_mm / 1000
        return Curve(volumes_ml[:, LV], volumes_ml[:, MYOCARDIUM], volumes_ml[:, RV], cine.phase_ms,
                     np.moveaxis(labels[:len(whole.frames)], 1, -1), whole.grid)


def _padded(frames: np.ndarray) -> np.ndarray:
    """(S, H, W, T) → (1, S', H, W, T), with black slices up to a number that is compiled for."""
    missing = padded_slices([len(frames)]) - len(frames)
    return np.pad(frames, ((0, missing), (0, 0), (0, 0), (0, 0)))[None]


def contours_config(settings: dict) -> ContoursConfig:
    """The config of a run from its config.json. Raises RunError where this version does not know or allow a setting."""
    try:
        return ContoursConfig(**{**settings, "net": ContoursNetConfig(**settings["net"]),
                                 "augment": AugmentConfig(**settings["augment"])})
    except (TypeError, KeyError, ValueError) as error:
        raise RunError(f"the run's settings are not this version's ({error})") from None
