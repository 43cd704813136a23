"""The SFERA task: volumes ÷ slice spacing, scaled to [0, 1], by RMSE; then the ridge (paper, Methods)."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from cardiojax import data, losses, ridge
from cardiojax.augment import augment, study_keys, view
from cardiojax.config import Sfera as SferaConfig
from cardiojax.config import SferaNet, jax_dtype
from cardiojax.data import Batch, Split
from cardiojax.errors import RunError
from cardiojax.evaluate.metrics import Accumulator, with_ef
from cardiojax.evaluate.statistics import recalibration
from cardiojax.nets.sfera import MOMENTUM, TYPICAL_SLICES, Sfera
from cardiojax.ridge import UNCALIBRATED, Calibration, Ridge
from cardiojax.train import loop, parallel

STATISTICS_STUDIES = 512       # training studies that the batch statistics are re-estimated from
SHORT = 500                    # steps: below, a program compiled for few of them costs more than wasted slices do


class Scaling(NamedTuple):
    """volumes ÷ slice spacing (ml/mm), min–max scaled: 0 at `low`, 1 at `high`; from the training split alone."""

    low: Array
    high: Array

    @classmethod
    def of(cls, split: Split) -> "Scaling":
        normed = split.volumes_ml / split.slice_spacing_mm[:, None]
        low, high = normed.min(axis=0), normed.max(axis=0)
        return cls(low, np.where(high > low, high, low + 1.0).astype(np.float32))

    def scale(self, volumes_ml, spacing_mm):
        return (volumes_ml / spacing_mm[:, None] - self.low) / (self.high - self.low)

    def to_ml(self, scaled, spacing_mm):
        return (scaled * (self.high - self.low) + self.low) * spacing_mm[:, None]

    def std_ml(self, scaled_std, spacing_mm):
        return scaled_std * (self.high - self.low) * spacing_mm[:, None]


@flax.struct.dataclass
class State:
    """Everything that training goes on from; `ema` is the average of `params` that is evaluated."""

    step: Array
    params: nnx.State
    stats: nnx.State
    ema: nnx.State
    opt: optax.OptState


@functools.partial(jax.jit, static_argnames=("net", "remat"))
def new_model(net: SferaNet, key: Array, remat: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A network of random weights as graphdef, parameters and batch statistics."""
    fields = dataclasses.asdict(net)
    model = Sfera(**{**fields, "dtype": jax_dtype(net.dtype)}, remat=remat, rngs=nnx.Rngs(key))
    return nnx.split(model, nnx.Param, nnx.BatchStat)


def model_shapes(net: SferaNet, remat: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The same with shapes for arrays, for weights that come from elsewhere: at once, where `new_model` compiles."""
    return jax.eval_shape(functools.partial(new_model, net, remat=remat), jax.random.key(0))


class SferaTask:
    """`init`, `step` and `evaluate` of one training run; `step` is pure and is jitted by the caller."""

    def __init__(self, config: SferaConfig, training: Split, validation: Split, init: dict | None = None,
                 how: parallel.How = parallel.PLAIN):
        self.config, self.training, self.validation, self.how = config, training, validation, how
        self.slices = data.max_slices(training, validation)
        self.scaling = init["scaling"] if init else Scaling.of(training)
        self.fixed = self.scaling           # an argument of the step, so that one compilation serves every dataset
        self.parent = init
        self.graph, _, self.no_stats = model_shapes(config.net, how.remat)
        self.mean_predictor = with_ef(training.volumes_ml).mean(axis=0)
        schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
        self.optimiser = optax.flatten(optax.chain(      # one vector: a hundred small loops less to compile
            optax.clip_by_global_norm(config.clip_norm), optax.scale_by_radam(),
            optax.add_decayed_weights(config.weight_decay), optax.scale_by_learning_rate(schedule)))

    def init(self, key: Array) -> State:
        if self.parent:
            params, stats = self.parent["params"], self.parent["stats"]
        else:
            _, params, stats = new_model(self.config.net, key)
            if self.config.net.readout == "sum":       # no area is no volume: both losses then ask for the same head
                params["offset"][...] = -jnp.asarray(self.scaling.low / (self.scaling.high - self.scaling.low))
        ema = jax.tree.map(jnp.copy, params)            # its own buffers: the step donates the whole state
        return State(jnp.zeros((), jnp.int32), params, stats, ema, self.optimiser.init(params))

    def batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1):
        return data.training_batches(self.training, size_px=self.config.net.size_px, batch=self.config.batch,
                                     slices=self.slices, seed=seed, process=process, processes=processes,
                                     devices=devices)

    def step(self, state: State, batch: Batch, key: Array, fixed: Scaling, axis_name: str | None = None
             ) -> tuple[State, dict[str, Array]]:
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(batch.frames)
        augment_keys, dropout_keys = (study_keys(k, len(batch.frames), first)
                                      for k in jax.random.split(jax.random.fold_in(key, state.step)))
        frames, volumes, areas = augment(augment_keys, batch.frames, batch.n_slices, batch.volumes_ml,
                                         batch.area_mm2, self.config.augment)
        target = fixed.scale(volumes, batch.slice_spacing_mm)
        # an area (mm²) / 1000 is that slice's share of V / spacing (ml/mm); see SferaOutput.areas
        share = areas / 1000.0 / (fixed.high - fixed.low) * TYPICAL_SLICES

        def loss(params, stats, micro):
            frames, n_slices, target, share, dropout_keys = micro
            model = nnx.merge(self.graph, params, stats, copy=True)
            out = model(frames, n_slices, train=True, budget=batch.budget if self.how.accumulate == 1 else None,
                        dropout_keys=dropout_keys, axis_name=axis_name)
            volume = losses.masked_rmse(out.volumes, target, jnp.ones_like(target), axis_name)
            area = losses.masked_rmse(out.areas, share, ~jnp.isnan(share) * 1.0, axis_name)
            total = volume + self.config.area_weight * area
            return total, (nnx.state(model, nnx.BatchStat), {"loss": total, "volume_rmse": volume, "area_rmse": area})

        gradients, stats, metrics = parallel.gradients(
            loss, state.params, state.stats, (frames, batch.n_slices, target, share, dropout_keys), self.how.accumulate)
        if axis_name is not None:
            # every replica's loss is the whole batch's, so each gradient counts the replicas once too often
            gradients = jax.lax.pmean(gradients, axis_name)
        updates, opt = self.optimiser.update(gradients, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(self.config.ema, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)
        metrics["gradient_norm"] = optax.global_norm(gradients)
        return State(state.step + 1, params, stats, ema, opt), metrics

    def evaluate(self, state: State, spread: Callable[[Batch], Batch]) -> tuple[dict[str, float], dict, dict]:
        """Validation metrics of the averaged weights, and the model that gave them (`predict.Predictor` fields).

        The ridge is fitted on the training studies' features as a prediction sees them.
        """
        params, stats = state.ema, self.re_estimated(state.ema, spread)
        features, volumes_ml, spacing_mm = self._features(params, stats, self.training, spread)
        fitted = ridge.fit(features, self.scaling.scale(volumes_ml, spacing_mm))
        features, volumes_ml, spacing_mm = self._features(params, stats, self.validation, spread)
        result = Accumulator(self.mean_predictor)
        result.add(np.asarray(self.scaling.to_ml(fitted.predict(features)[0], spacing_mm)), volumes_ml)
        calibration = calibrated(fitted, self.scaling, features, volumes_ml, spacing_mm)
        return result.flat(), {"params": params, "stats": stats, "scaling": self.scaling, "ridge": fitted,
                               "calibration": calibration, "mean_predictor": self.mean_predictor}, {}

    def score(self, metrics: dict[str, float]) -> float:
        """Lower is better: mean of the RMSE of EDV, ESV and EF over the mean predictor's."""
        return float(np.mean([metrics[f"{k}_rmse"] / max(metrics[f"{k}_rmse_mean_predictor"], 1e-6)
                              for k in ("edv", "esv", "ef")]))

    def re_estimated(self, params: nnx.State, spread: Callable[[Batch], Batch]) -> nnx.State:
        """Batch statistics that belong to `params`: means over the training studies, as they are predicted on."""
        totals, studies, slices = None, 0, 0
        for batch in self._batches(self.training):
            here = int(batch.n_slices[batch.real].sum())
            moments = jax.tree.map(lambda m, n=here: n * m, self._moments(params, spread(batch)))
            totals = moments if totals is None else jax.tree.map(jnp.add, totals, moments)
            slices, studies = slices + here, studies + int(batch.real.sum())
            if studies >= STATISTICS_STUDIES:
                break
        return jax.tree.map(lambda total: total / slices, totals)

    def _batches(self, split: Split) -> Iterable[Batch]:
        return data.evaluation_batches(split, size_px=self.config.net.size_px, batch=self.config.batch,
                                       slices=self.slices)

    def _features(self, params, stats, split: Split, spread) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, volumes (ml) and slice spacings (mm) of every study of a split."""
        rows = []
        for batch in self._batches(split):
            features, _ = features_of(self.graph, params, stats, spread(batch), self.config.views)
            rows.append([np.asarray(a)[batch.real] for a in (features, batch.volumes_ml, batch.slice_spacing_mm)])
        return tuple(np.concatenate(column) for column in zip(*rows, strict=True))

    @functools.partial(jax.jit, static_argnums=0)
    def _moments(self, params, batch: Batch) -> nnx.State:
        """The statistics of one batch alone: what a training pass leaves of statistics that were zero."""
        zero = jax.tree.map(jnp.zeros_like, self.no_stats)
        model = nnx.merge(self.graph, params, zero, copy=True)
        n = jnp.where(batch.real, batch.n_slices, 0)
        model(batch.frames.astype(jnp.float32) / 255.0, n, train=True, budget=batch.budget)
        return jax.tree.map(lambda kept: kept / (1 - MOMENTUM), nnx.state(model, nnx.BatchStat))


@functools.partial(jax.jit, static_argnums=(0, 4))
def features_of(graph, params, stats, batch: Batch, views: int
                ) -> tuple[Float[Array, "b f"], Float[Array, "b s 2"]]:
    """What the ridge reads: features of a batch of studies, averaged over the first `views` exact views; and each
    slice's share of the volumes (`SferaOutput.areas`) in the study as it is."""
    model = nnx.merge(graph, params, stats, copy=True)
    outs = [model(view(batch.frames, batch.n_slices, v), batch.n_slices, budget=batch.budget) for v in range(views)]
    return sum(out.features for out in outs) / views, outs[0].areas


@jax.jit
def volumes(ridge: Ridge, calibration: Calibration, scaling: Scaling, features, spacing_mm):
    """Features → volumes (ml), their deviations, EF (percent) and its deviation by the delta method, and how far the
    study is from those of the fit (1: as far as the farthest of the validation studies)."""
    scaled, scaled_std = ridge.predict(features)
    mean, std = scaling.to_ml(scaled, spacing_mm), scaling.std_ml(scaled_std, spacing_mm)
    edv = jnp.where(mean[:, 0] > 0, mean[:, 0], jnp.nan)
    ratio = mean[:, 1] / edv
    variance = std[:, 1]**2 + (ratio * std[:, 0])**2 - 2 * ridge.residual_corr * ratio * std[:, 0] * std[:, 1]
    ef_std = 100 / edv * jnp.sqrt(jnp.maximum(variance, 0.0))
    distance = (ridge.spread(features) / ridge.noise_var).max(axis=1) / calibration.far
    return mean, std * calibration.factor[:2], 100 * (1 - ratio), ef_std * calibration.factor[2], distance


def calibrated(fitted: Ridge, scaling: Scaling, features, volumes_ml, spacing_mm) -> Calibration:
    """The deviations' factors and the usual distance, from studies that the ridge was not fitted on."""
    mean, std, ef, ef_std, distance = (np.asarray(a, np.float64) for a in volumes(
        fitted, UNCALIBRATED._replace(far=np.float32(1)), scaling, features, spacing_mm))
    predicted, truth = np.column_stack([mean, ef]), with_ef(volumes_ml)
    defined = np.isfinite(predicted).all(axis=1)
    if defined.sum() < 2:
        return UNCALIBRATED
    factor = [recalibration(e[defined], s[defined])
              for e, s in zip((predicted - truth).T, np.column_stack([std, ef_std]).T, strict=True)]
    return Calibration(np.array(factor, np.float32), np.float32(distance.max()))


def train(config: SferaConfig, *, preset: str, training: str, validation: str | None, data_dir: Path, run: Path,
          init: Path | None = None, seed: int = 0, how: parallel.How = parallel.PLAIN) -> dict[str, float]:
    """Train (or go on training) a run folder; the last validation metrics. Raises InputError, Preempted."""
    training_split, validation_split = data.open_pair(training, validation, data_dir)
    parallel.check_batch(config.batch, len(jax.devices()), accumulate=how.accumulate)
    parent = None
    if init is not None:
        from cardiojax.predict import Predictor
        loaded = Predictor(init)
        if loaded.config.net != config.net:
            raise RunError(f"--init {init} has another network: {loaded.config.net}")
        parent = {"params": loaded.params, "stats": loaded.stats, "scaling": loaded.scaling}
    task = SferaTask(config, training_split, validation_split, parent, how)
    settings = {"task": "sfera", "preset": preset, "config": dataclasses.asdict(config), "seed": seed,
                "data": {"training": training, "validation": validation_split.name},
                "parent": None if init is None else str(init)}
    return loop.train(task, run, settings, how, config)
