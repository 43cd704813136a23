"""A trained SFERA: studies → volumes with deviations, in one jitted call."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from cardiojax.config import AugmentConfig, SferaConfig, SferaNetConfig, jax_dtype
from cardiojax.errors import RunError
from cardiojax.files import read_arrays, write_arrays
from cardiojax.models.measuring import MeasuringModel
from cardiojax.models.prediction import Prediction, difference_std, ef_with_std, p_below, reasons_to_refer
from cardiojax.models.ridge import UNCALIBRATED, Calibration, Ridge
from cardiojax.models.saved import flatten, into_state, opened
from cardiojax.nets.draws import rngs_of
from cardiojax.nets.sfera import Sfera
from cardiojax.ops.compiler import AS_ONE_GRAPH
from cardiojax.preparation.augment import view
from cardiojax.preparation.batch import Batch, batch_of
from cardiojax.study import Study


class Scaling(NamedTuple):
    """volumes ÷ slice spacing (ml/mm), min–max scaled: 0 at `low`, 1 at `high`; from the training split alone."""

    low: Array
    high: Array

    @classmethod
    def of(cls, volumes_ml: Float[np.ndarray, "n 2"], slice_spacing_mm: Float[np.ndarray, " n"]) -> "Scaling":
        normed = volumes_ml / slice_spacing_mm[:, None]
        low, high = normed.min(axis=0), normed.max(axis=0)
        return cls(low, np.where(high > low, high, low + 1.0).astype(np.float32))

    def scale(self, volumes_ml, spacing_mm):
        return (volumes_ml / spacing_mm[:, None] - self.low) / (self.high - self.low)

    def to_ml(self, scaled, spacing_mm):
        return (scaled * (self.high - self.low) + self.low) * spacing_mm[:, None]

    def std_ml(self, scaled_std, spacing_mm):
        return scaled_std * (self.high - self.low) * spacing_mm[:, None]


class Readout(NamedTuple):
    """What turns features into volumes."""

    ridge: Ridge
    calibration: Calibration
    scaling: Scaling


class Volumes(NamedTuple):
    """Of a batch of studies.

    mean_ml, std_ml (B, 2): EDV and ESV; ef_percent, ef_std_percent (B,), NaN where EDV is not positive.
    distance (B,): from the studies of the ridge's fit; 1 is as far as the farthest validation study.
    areas (B, S, 2): each slice's share of the scaled volumes (`nets.sfera.SferaOutput.areas`), times their range.
    """

    mean_ml: Array
    std_ml: Array
    ef_percent: Array
    ef_std_percent: Array
    distance: Array
    areas: Array

    @classmethod
    def of(cls, rows: Float[np.ndarray, "b k"]) -> "Volumes":
        """Out of `SferaModel.apply`'s rows, as float64."""
        rows = rows.astype(np.float64)
        return cls(rows[:, :2], rows[:, 2:4], *rows[:, 4:7].T, rows[:, 7:].reshape(len(rows), -1, 2))


def new_network(net: SferaNetConfig, key: Array, remat: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A network of random weights as graphdef, parameters and batch statistics."""
    fields = dataclasses.asdict(net)
    model = Sfera(**{**fields, "dtype": jax_dtype(net.dtype)}, remat=remat, rngs=rngs_of(key))
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, *jax.device_put(states)


@functools.cache
def network_shapes(net: SferaNetConfig, remat: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The same with shapes for arrays, for weights that come from elsewhere."""
    return jax.eval_shape(functools.partial(new_network, net, remat=remat), jax.random.key(0))


@functools.partial(jax.jit, static_argnums=(0, 4))
def features_of(graph, params, stats, batch: Batch, views: int
                ) -> tuple[Float[Array, "b f"], Float[Array, "b s 2"]]:
    """What the ridge reads: features of a batch of studies, averaged over the first `views` exact views; and each
    slice's share of the volumes (`SferaOutput.areas`) in the study as it is."""
    model = nnx.merge(graph, params, stats, copy=True)

    def seen(frames):
        out = model(frames.astype(jnp.float32) / 255.0, batch.n_slices, slice_budget=batch.slice_budget)
        return out.features, out.areas

    if views == 1:
        return seen(batch.frames)
    turned = jnp.stack([view(batch.frames, batch.n_slices, v) for v in range(views)])
    features, areas = jax.lax.map(seen, turned)                                               # one program for all
    return features.mean(axis=0), areas[0]


@jax.jit
def volumes_of(readout: Readout, features: Float[Array, "b f"], spacing_mm: Float[Array, " b"]
               ) -> tuple[Array, Array, Array, Array, Array]:
    """Features → the fields of `Volumes` but for the areas; EF's deviation by the delta method."""
    ridge, calibration, scaling = readout
    scaled, scaled_std = ridge.predict(features)
    mean, std = scaling.to_ml(scaled, spacing_mm), scaling.std_ml(scaled_std, spacing_mm)
    ef, ef_std = ef_with_std(mean, std, ridge.residual_corr)
    distance = (ridge.coefficient_variance(features) / ridge.noise_var).max(axis=1) / calibration.far
    return mean, std * calibration.factor[:2], ef, ef_std * calibration.factor[2], distance


class PackedWeights(NamedTuple):
    """The leaves of parameters and statistics, all vectors as one: a call takes some 4 µs for each array that it is
    given (an H200's host), and flattening nnx states takes longer than a small network's arithmetic."""

    vectors: Array
    others: tuple[Array, ...]

    @classmethod
    def of(cls, *states: nnx.State) -> "PackedWeights":
        """Of states on one device."""
        leaves = jax.tree.leaves(states)
        vectors = np.concatenate([np.asarray(x) for x in leaves if x.ndim == 1])
        return cls(jax.device_put(vectors, leaves[0].device), tuple(x for x in leaves if x.ndim != 1))

    def into(self, shapes: tuple[nnx.State, ...]) -> tuple[nnx.State, ...]:
        """The states again, of the shapes that they had."""
        leaves, others, start = [], iter(self.others), 0
        for leaf in jax.tree.leaves(shapes):
            if leaf.ndim == 1:
                leaves.append(self.vectors[start:start + leaf.size])
                start += leaf.size
            else:
                leaves.append(next(others))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _apply(net: SferaNetConfig, views: int, weights: PackedWeights, readout: Readout, batch: Batch
           ) -> Float[Array, "b k"]:
    graph, *shapes = network_shapes(net)
    features, areas = features_of(graph, *weights.into(tuple(shapes)), batch, views)
    fields = (*volumes_of(readout, features, batch.slice_spacing_mm),
              areas * (readout.scaling.high - readout.scaling.low))
    return jnp.concatenate([field.reshape(len(field), -1) for field in fields], axis=1)


@functools.cache
def _applied(platform: str) -> Callable[..., Array]:
    """`_apply` as that platform runs it."""
    return jax.jit(_apply, static_argnums=(0, 1), compiler_options=AS_ONE_GRAPH if platform == "gpu" else None)


class SferaModel(MeasuringModel):
    """A trained SFERA as a value: network, ridge, calibration and scaling, their arrays on the device.

    `apply` is pure and batched; `predict` takes a study from anywhere. See `cardiojax.load`.
    """

    def __init__(self, config: SferaConfig, params: nnx.State, stats: nnx.State, readout: Readout,
                 mean_predictor: Float[np.ndarray, "3"], path: Path | None = None,
                 settings: dict[str, Any] | None = None):
        """mean_predictor: mean EDV, ESV (ml) and EF (percent) of the training studies; path, settings: the run's."""
        self.config, self.path, self.settings = config, path, settings or {}
        self.graph = network_shapes(config.net)[0]
        self.params, self.stats, self.readout = jax.device_put((params, stats, readout))
        self.mean_predictor = np.asarray(mean_predictor)
        self._weights = PackedWeights.of(self.params, self.stats)
        self._applied = _applied(next(iter(self._weights.vectors.devices())).platform)

    @classmethod
    def load(cls, path: str | Path) -> "SferaModel":
        """As `cardiojax.load`. Raises RunError where `path` is no finished SFERA run."""
        return cls.from_arrays(*opened(path, "sfera"))

    @classmethod
    def from_arrays(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> "SferaModel":
        """Of a run's config.json and the arrays of its model.npz. Raises RunError where they do not fit."""
        config = sfera_config(settings["config"])
        _, params, stats = network_shapes(config.net)

        def fields(kind, name):
            return kind(*(arrays[f"{name}/{f}"] for f in kind._fields))

        try:
            readout = Readout(fields(Ridge, "ridge"), stored_calibration(arrays), fields(Scaling, "scaling"))
            mean_predictor = arrays["mean_predictor"]
        except KeyError as error:
            raise RunError(f"the model of {path} lacks {error}") from None
        return cls(config, into_state(params, arrays, "params"), into_state(stats, arrays, "stats"), readout,
                   mean_predictor, path, settings)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of its arrays by the names that model.npz has."""
        return flatten({"params": self.params, "stats": self.stats, **self.readout._asdict(),
                        "mean_predictor": self.mean_predictor})

    def save(self, file: Path):
        """Write model.npz atomically."""
        write_arrays(file, self.arrays())

    def on(self, device: Any) -> "SferaModel":
        """The same model with its arrays on `device`, a jax.Device."""
        there = jax.device_put((self.params, self.stats, self.readout), device)
        return SferaModel(self.config, *there, self.mean_predictor, self.path, self.settings)

    def apply(self, batch: Batch) -> Float[Array, "b k"]:
        """A row for each of a batch of prepared studies, the fields of `Volumes` side by side: one call to the device,
        where the result stays, and one array to fetch."""
        return self._applied(self.config.net, self.config.views, self._weights, self.readout, batch)

    def batch_of(self, studies: Sequence[Study], fill_to: int = 0, slices: int = 0) -> Batch:
        """A batch of prepared studies at this network's size (`preparation.batch.batch_of`)."""
        return batch_of(studies, self.config.net.size_px, fill_to=fill_to, slices=slices)

    def predictions(self, studies: Sequence[Study], fill_to: int = 0, slices: int = 0) -> Iterator[Prediction]:
        """Predictions of one batch of prepared studies."""
        mean, std, ef, ef_std, distance, areas = Volumes.of(np.asarray(
            self.apply(self.batch_of(studies, fill_to, slices))))
        taught_areas, correlation = self.config.area_weight > 0, np.asarray(self.readout.ridge.residual_corr)
        for i, study in enumerate(studies):
            reasons = reasons_to_refer(study, mean_ml=mean[i], ef_std_percent=ef_std[i], distance=distance[i],
                                       ed_area=areas[i, :len(study), 0] if taught_areas else None)
            yield Prediction(
                study.study_id, *map(float, mean[i]), float(ef[i]), *map(float, std[i]), float(ef_std[i]),
                bool(reasons), "; ".join(reasons), *(p_below(limit, ef[i], ef_std[i]) for limit in (40.0, 50.0)),
                *(study.frame_numbers or (None, None)), study=study, model=self.name,
                sv_std_ml=difference_std(std[i], correlation))


def calibration_of(run: Path) -> Calibration:
    """What a run's deviations were multiplied by. Raises RunError where it has no model yet."""
    return stored_calibration(read_arrays(run / "model.npz"))


def stored_calibration(arrays: dict[str, np.ndarray]) -> Calibration:
    """The calibration in the arrays of model.npz; runs older than it lack it."""
    if "calibration/factor" not in arrays:
        return UNCALIBRATED
    return Calibration(*(arrays[f"calibration/{field}"] for field in Calibration._fields))


def sfera_config(settings: dict) -> SferaConfig:
    """The config of a run from its config.json. Raises RunError where this version does not know or allow a setting."""
    try:
        return SferaConfig(**{**settings, "net": SferaNetConfig(**settings["net"]),
                              "augment": AugmentConfig(**settings["augment"])})
    except (TypeError, KeyError, ValueError) as error:
        raise RunError(f"the run's settings are not this version's ({error})") from None
