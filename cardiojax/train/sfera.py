"""The SFERA task: volumes ÷ slice spacing, scaled to [0, 1], by RMSE; then the ridge (paper, Methods)."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from cardiojax import data
from cardiojax.config import SferaConfig, SferaNetConfig
from cardiojax.data import Split
from cardiojax.data.resident import all_studies, gib_of, picked_batches
from cardiojax.errors import RunError
from cardiojax.evaluate.metrics import Accumulator, with_ef
from cardiojax.models.ridge import UNCALIBRATED, Calibration, Ridge
from cardiojax.models.sfera import Readout, Scaling, SferaModel, features_of, network_shapes, new_network, volumes_of
from cardiojax.nets.layers import MOMENTUM
from cardiojax.preparation.batch import Batch
from cardiojax.train import loop, parallel, rates
from cardiojax.train.calibration import recalibration
from cardiojax.train.ridge import fit as fit_ridge
from cardiojax.train.sfera_step import SferaStep, optimiser
from cardiojax.train.state import State, first_state, volume_score

SAMPLED_STUDIES = 512          # that batch statistics are re-estimated from, and evaluations before the last look at


class SferaTask:
    """`init`, `step` and `evaluate` of one training run; `step` is a `SferaStep`, jitted by the caller."""

    def __init__(self, config: SferaConfig, training: Split, validation: Split, init: SferaModel | None = None,
                 options: parallel.StepOptions = parallel.DEFAULT):
        self.config, self.training, self.validation, self.options = config, training, validation, options
        self.slices = data.max_slices(training, validation)
        self.scaling = init.readout.scaling if init else Scaling.of(training.volumes_ml, training.slice_spacing_mm)
        self.reading = options.reading
        # arguments of the step, so that one compilation serves every dataset and every number of steps
        self.constants = self.scaling, rates.Cosine.of(config.learning_rate, config.steps)
        self.parent = init
        self.graph = network_shapes(config.net)[0]
        self.mean_predictor = with_ef(training.volumes_ml).mean(axis=0)
        self.step = SferaStep(config.net, config.augment, config.area_weight, config.ema,
                              optimiser(config.clip_norm, config.weight_decay), options.accumulate, options.remat)

    def init(self, key: Array) -> State:
        if self.parent:
            params, stats = jax.device_put((self.parent.params, self.parent.stats), may_alias=False)
        else:
            _, params, stats = new_network(self.config.net, key)
            if self.config.net.readout == "sum":       # no area is no volume: both losses then ask for the same head
                params["offset"][...] = -jnp.asarray(self.scaling.low / (self.scaling.high - self.scaling.low))
        return first_state(params, stats, self.step.optimiser)

    def batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1):
        return data.training_batches(self.training, size_px=self.config.net.size_px, batch=self.config.batch,
                                     slices=self.slices, seed=seed, process=process, processes=processes,
                                     devices=devices, reading=self.reading)

    def all_studies(self) -> Batch:
        """All training studies, of which `picked_batches` names those of each batch."""
        return all_studies(self.training, size_px=self.config.net.size_px, slices=self.slices, reading=self.reading)

    def picked_batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1):
        return picked_batches(self.training, batch=self.config.batch, slices=self.slices, seed=seed, process=process,
                              processes=processes, devices=devices, reading=self.reading)

    @property
    def gib(self) -> float:
        """That `all_studies` takes."""
        return gib_of(self.training, size_px=self.config.net.size_px, slices=self.slices)

    def evaluate(self, state: State, shard: Callable[[Batch], Batch], everything: bool = True
                 ) -> tuple[dict[str, float], dict, dict]:
        """Validation metrics of the averaged weights, and the model that gave them (the arrays of a `SferaModel`).

        The ridge is fitted on the training studies' features as a prediction sees them; without `everything` on those
        of a sample, in one view.
        """
        params, stats = state.ema, self.re_estimated(state.ema, shard)

        def seen(split: Split):
            indices = data.sample_of(split, len(split) if everything else SAMPLED_STUDIES)
            return self._features(params, stats, split, indices, self.config.views if everything else 1, shard)

        features, volumes_ml, spacing_mm = seen(self.training)
        fitted = fit_ridge(features, self.scaling.scale(volumes_ml, spacing_mm))
        features, volumes_ml, spacing_mm = seen(self.validation)
        result = Accumulator(self.mean_predictor)
        result.add(np.asarray(self.scaling.to_ml(fitted.predict(features)[0], spacing_mm)), volumes_ml)
        calibration = calibrated(fitted, self.scaling, features, volumes_ml, spacing_mm)
        return result.flat(), {"params": params, "stats": stats, "scaling": self.scaling, "ridge": fitted,
                               "calibration": calibration, "mean_predictor": self.mean_predictor}, {}

    def score(self, metrics: dict[str, float]) -> float:
        return volume_score(metrics)

    def re_estimated(self, params: nnx.State, shard: Callable[[Batch], Batch]) -> nnx.State:
        """Batch statistics that belong to `params`: means over a sample of the training studies, as they are predicted
        on."""
        sums = [jax.device_get(_sums(self.config.net, params, shard(batch)))
                for batch in self._batches(self.training, data.sample_of(self.training, SAMPLED_STUDIES))]
        moments, slices = jax.tree.map(lambda *terms: sum(terms), *sums)
        return jax.tree.map(lambda total: jnp.asarray(total / slices), moments)

    def _batches(self, split: Split, indices: Int[np.ndarray, " n"]) -> Iterable[Batch]:
        return data.evaluation_batches(split, size_px=self.config.net.size_px, batch=self.config.batch,
                                       slices=self.slices, indices=indices, reading=self.reading)

    def _features(self, params, stats, split: Split, indices: Int[np.ndarray, " n"], views: int, shard
                  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, volumes (ml) and slice spacings (mm) of studies of a split; every process computes its share."""
        rows = []
        for batch in self._batches(split, parallel.share_of(indices)):
            features, _ = features_of(self.graph, params, stats, shard(batch), views)
            rows.append([np.asarray(a)[batch.real] for a in (features, batch.volumes_ml, batch.slice_spacing_mm)])
        return tuple(parallel.of_all(np.concatenate(column), len(indices)) for column in zip(*rows, strict=True))


@functools.partial(jax.jit, static_argnums=0)
def _sums(net: SferaNetConfig, params, batch: Batch) -> tuple[nnx.State, Array]:
    """Of one batch: the statistics, which are what a training pass leaves of statistics that were zero, times its
    number of slices; and that number."""
    graph, _, shapes = network_shapes(net)
    model = nnx.merge(graph, params, jax.tree.map(jnp.zeros_like, shapes), copy=True)
    n = jnp.where(batch.real, batch.n_slices, 0)
    model(batch.frames.astype(jnp.float32) / 255.0, n, train=True, slice_budget=batch.slice_budget)
    slices = n.sum()
    return jax.tree.map(lambda kept: slices * kept / (1 - MOMENTUM), nnx.state(model, nnx.BatchStat)), slices


def calibrated(ridge: Ridge, scaling: Scaling, features, volumes_ml, spacing_mm) -> Calibration:
    """Factors of the deviations and the largest distance, from studies that the ridge was not fitted on."""
    raw = Readout(ridge, UNCALIBRATED._replace(far=np.float32(1)), scaling)
    mean, std, ef, ef_std, distance = (np.asarray(a, np.float64) for a in volumes_of(raw, features, spacing_mm))
    predicted, truth = np.column_stack([mean, ef]), with_ef(volumes_ml)
    defined = np.isfinite(predicted).all(axis=1)
    if defined.sum() < 2:
        return UNCALIBRATED
    factor = [recalibration(e[defined], s[defined])
              for e, s in zip((predicted - truth).T, np.column_stack([std, ef_std]).T, strict=True)]
    return Calibration(np.array(factor, np.float32), np.float32(distance.max()))


def train(config: SferaConfig, *, preset: str, training: str | Split, validation: str | Split | None,
          data_dir: Path, run: Path, init: Path | None = None, seed: int = 0,
          options: parallel.StepOptions = parallel.DEFAULT) -> dict[str, float]:
    """Train (or go on training) a run folder; the last validation metrics. Raises InputError, Preempted."""
    training_split, validation_split = data.open_pair(training, validation, data_dir)
    parallel.check_batch(config.batch, len(jax.devices()), accumulate=options.accumulate)
    parent = None
    if init is not None:
        parent = SferaModel.load(init)
        if parent.config.net != config.net:
            raise RunError(f"--init {init} has another network: {parent.config.net}")
    task = SferaTask(config, training_split, validation_split, parent, options)
    settings = {"task": "sfera", "preset": preset, "config": dataclasses.asdict(config), "seed": seed,
                "data": {"training": training_split.name, "validation": validation_split.name},
                "parent": None if init is None else str(init)}
    return loop.train(task, run, settings, options, config)
