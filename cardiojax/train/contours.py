"""The contours task: every step both U-Nets learn from the same frames, each at its own scale."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from cardiojax import data
from cardiojax.config import AugmentConfig, ContoursConfig
from cardiojax.data import Split
from cardiojax.data.frames import Frames
from cardiojax.data.labelled import LabelledBatch, Stacks, labelled_batches, taught_by_volume
from cardiojax.errors import RunError
from cardiojax.evaluate.metrics import Accumulator, with_ef
from cardiojax.evaluate.overlap import DiceSum
from cardiojax.models.contours import UNCALIBRATED, ContoursModel, SoftCalibration, measured
from cardiojax.models.looks import (
    COARSE_PX,
    FINE_PX,
    crop,
    halved_mean,
    heart_centre,
    limited_to,
    network_shapes,
    new_networks,
    padded_coarse,
    with_neighbours,
)
from cardiojax.nets.layers import MOMENTUM
from cardiojax.preparation import SIZE_PX
from cardiojax.preparation.augment import augment, augment_labelled, labelled_planes, study_keys
from cardiojax.preparation.batch import batch_of
from cardiojax.train import loop, losses, parallel, rates
from cardiojax.train.calibration import MIN_STUDIES, fit_deviations
from cardiojax.train.state import State, first_state, updated, volume_score
from cardiojax.units import LV

STATISTICS_BATCHES = 20        # of training frames, that the batch statistics are re-estimated from
STUDIES = 2                    # that a device measures at a time
SAMPLED_STUDIES = 64           # that evaluations before the last look at


class ContoursTask:
    """`init`, `step` and `evaluate` of one training run; `step` is pure and is jitted by the caller."""

    def __init__(self, config: ContoursConfig, training: Split, validation: Split, init: ContoursModel | None = None,
                 options: parallel.StepOptions = parallel.DEFAULT):
        """Raises DataError where no training study has masks."""
        self.config, self.training, self.validation, self.options = config, Frames(training), validation, options
        self.parent, self.volumes = init, taught_by_volume(training) if config.stacks else np.array([], int)
        self.graph, _, self.no_stats = network_shapes(config.net, options.remat)
        self.mean_predictor = with_ef(training.volumes_ml[np.isfinite(training.volumes_ml).all(1)]).mean(axis=0)
        self.constants = rates.Cosine.of(config.learning_rate, config.steps, min(config.warmup, config.steps // 2))
        self.optimiser = optax.flatten(optax.chain(
            optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay), rates.by_rate()))

    def init(self, key: Array) -> State:
        if self.parent:
            params, stats = jax.tree.map(jnp.copy, (self.parent.params, self.parent.stats))
        else:
            _, params, stats = new_networks(self.config.net, key)
        return first_state(limited_to(self.training.labels, params), stats, self.optimiser)

    def batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1):
        return labelled_batches(self.training, self.volumes, neighbours=self.config.net.neighbours,
                                batch=self.config.batch, stacks=self.config.stacks, seed=seed, process=process,
                                processes=processes, reading=data.Reading(self.options.workers, self.options.keep_gib))

    def step(self, state: State, batch: LabelledBatch, key: Array, constants: rates.Cosine,
             axis_name: str | None = None) -> tuple[State, dict[str, Array]]:
        def keys(which: int, count: int) -> Array:         # of this replica's share of the batch
            first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
            return study_keys(jax.random.fold_in(jax.random.fold_in(key, state.step), which), count, first)

        coarse, fine = self._looks(batch, keys(0, len(batch.images)), keys(1, len(batch.images)), self.config.augment)
        stacks = batch.stacks
        if stacks is not None:
            stacks = self._augmented(stacks, keys(2, len(stacks.frames)))

        def loss(params, stats, micro):
            networks = nnx.merge(self.graph, params, stats, copy=True)
            total, metrics = self._loss(networks, *micro, axis_name)
            return total, (nnx.state(networks, nnx.BatchStat), {"loss": total, **metrics})

        gradients, stats, metrics = parallel.gradients(loss, state.params, state.stats,
                                                       (coarse, fine, batch.known, stacks), self.options.accumulate)
        state, metrics["gradient_norm"] = updated(state, gradients, stats, self.optimiser, constants, self.config.ema,
                                                   axis_name)
        return state, metrics

    def _looks(self, batch: LabelledBatch, coarse_keys: Array, fine_keys: Array, augment: AugmentConfig):
        """Images and label shares as each of the two networks sees them, augmented by themselves."""
        planes = labelled_planes(batch.images, batch.masks)
        return (augment_labelled(coarse_keys, halved_mean(planes), jnp.zeros_like(batch.centre_px), COARSE_PX, augment),
                augment_labelled(fine_keys, planes, batch.centre_px, FINE_PX, augment))

    def _augmented(self, stacks: Stacks, keys: Array) -> Stacks:
        """`frames` become images (B, S, 1, 150, 150, C) with their neighbours."""
        frames, volume_ml, _ = augment(keys, stacks.frames[..., None], stacks.n_slices, stacks.volume_ml[:, None],
                                       jnp.zeros((*stacks.frames.shape[:2], 1)), self.config.augment)
        images = with_neighbours(frames.transpose(0, 1, 4, 2, 3), self.config.net.neighbours)
        return stacks._replace(frames=images, volume_ml=volume_ml[:, 0])

    def _loss(self, networks: nnx.Dict, coarse, fine, known, stacks: Stacks | None, axis_name: str | None
              ) -> tuple[Array, dict[str, Array]]:
        """Both networks' losses on labelled frames; and on stacks, which pass through them in the same batch and are
        seen as in a prediction (the second look round what the first has found), the error of their volumes."""
        count, weight, (small, shares), (crops, fine_shares) = len(known), jnp.ones(len(known)), coarse, fine
        b = s = c = 0
        if stacks is not None:
            b, s, _, h, w, c = stacks.frames.shape
            real = jnp.arange(s) < stacks.n_slices[:, None]
            weight = jnp.concatenate([weight, real.reshape(-1) * 1.0])
            small = jnp.concatenate([small, padded_coarse(stacks.frames.reshape(b * s, h, w, c))])
        logits = networks["coarse"](small, weight, train=True, axis_name=axis_name)
        first, metrics = losses.segmentation(logits[:count], shares, known, LV, self.config.area_weight, axis_name)
        metrics = {f"coarse_{k}": v for k, v in metrics.items()}
        if stacks is not None:
            seen = jax.nn.softmax(logits[count:]).reshape(b, s, 1, COARSE_PX, COARSE_PX, -1)
            centre_px = heart_centre(seen * real[:, :, None, None, None, None])
            round_heart = jax.vmap(crop)(stacks.frames, centre_px).reshape(b * s, FINE_PX, FINE_PX, c)
            crops = jnp.concatenate([crops, round_heart])
        logits = networks["fine"](crops, weight, train=True, axis_name=axis_name)
        second, more = losses.segmentation(logits[:count], fine_shares, known, LV, self.config.area_weight, axis_name)
        metrics |= {f"fine_{k}": v for k, v in more.items()}
        total = first + second
        if stacks is not None:
            area_mm2 = jax.nn.softmax(logits[count:])[..., LV].sum((1, 2)).reshape(b, s) * real
            error = losses.relative_error(area_mm2.sum(1) * stacks.slice_spacing_mm / 1000, stacks.volume_ml, axis_name)
            total, metrics = total + self.config.volume_weight * error, metrics | {"volume_error": error}
        return total, metrics

    def evaluate(self, state: State, shard: Callable, everything: bool = True
                 ) -> tuple[dict[str, float], dict, dict[str, np.ndarray]]:
        """Validation metrics of the averaged weights (volumes before calibration; the Dice of each label over all
        frames), and the model that gave them: the arrays of a `ContoursModel`. Without `everything` of a sample of the
        studies, in one view."""
        params, stats = state.ema, self.re_estimated(state.ema, shard)
        weights = tuple(jax.tree.leaves((params, stats)))
        rows, truths, dice, size = [], [], DiceSum(), STUDIES * jax.local_device_count()
        indices = data.sample_of(self.validation, len(self.validation) if everything else SAMPLED_STUDIES)
        for start in range(0, len(indices), size):
            studies = [self.validation[int(i)] for i in indices[start:start + size]]
            batch = batch_of(studies, SIZE_PX, fill_to=size, slices=data.max_slices(self.validation))
            out = measured(self.config.net, self.config.views if everything else 1, weights, UNCALIBRATED, shard(batch))
            rows.append([np.asarray(a)[batch.real] for a in out[:2]])
            truths.append(batch.volumes_ml[batch.real])
            for study, labels in zip(studies, np.asarray(out.seen.labels), strict=False):
                if study.masks is not None:
                    dice.add(np.moveaxis(labels[:len(study)], 1, -1), study.masks)
        (mean_ml, std_ml), truth_ml = (np.concatenate(c) for c in zip(*rows, strict=True)), np.concatenate(truths)
        known = np.isfinite(truth_ml).all(1)
        result = Accumulator(self.mean_predictor)
        result.add(mean_ml[known], truth_ml[known])
        return result.flat() | dice.means(), {
            "params": params, "stats": stats, "calibration": calibrated(mean_ml, std_ml, truth_ml),
            "mean_predictor": self.mean_predictor}, {}

    def score(self, metrics: dict[str, float]) -> float:
        return volume_score(metrics)

    def re_estimated(self, params: nnx.State, shard: Callable) -> nnx.State:
        """Batch statistics that belong to `params`: means over augmented training frames."""
        batches, total = self.batches(seed=1), None
        for i in range(STATISTICS_BATCHES):
            moments = self._moments(params, shard(next(batches)), i)
            total = moments if total is None else jax.tree.map(jnp.add, total, moments)
        return jax.tree.map(lambda t: t / STATISTICS_BATCHES, total)

    @functools.partial(jax.jit, static_argnums=0)
    def _moments(self, params, batch: LabelledBatch, i) -> nnx.State:
        """The statistics of one batch alone: what a training pass leaves of statistics that were zero."""
        networks = nnx.merge(self.graph, params, jax.tree.map(jnp.zeros_like, self.no_stats), copy=True)
        keys = study_keys(jax.random.key(i), len(batch.images))
        calm = dataclasses.replace(self.config.augment, scale=0.0, intensity=0.0)
        for name, (images, _) in zip(("coarse", "fine"), self._looks(batch, keys, keys, calm), strict=True):
            networks[name](images, jnp.ones(len(images)), train=True)
        return jax.tree.map(lambda kept: kept / (1 - MOMENTUM), nnx.state(networks, nnx.BatchStat))


def calibrated(mean_ml: Float[np.ndarray, "n 2"], std_ml: Float[np.ndarray, "n 2"], truth_ml: Float[np.ndarray, "n 2"]
               ) -> SoftCalibration:
    """What corrects uncalibrated measurements of studies that the networks were not trained on. Studies without volumes
    or without an EF are left out; fewer than `MIN_STUDIES` correct nothing."""
    predicted, truth = with_ef(mean_ml), with_ef(truth_ml)
    used = np.isfinite(truth).all(1) & np.isfinite(predicted).all(1) & (std_ml > 0).all(1)
    if used.sum() < MIN_STUDIES:
        return UNCALIBRATED
    mean, std, truth = mean_ml[used].astype(np.float64), std_ml[used].astype(np.float64), truth[used]
    scale = truth[:, :2].sum(0) / mean.sum(0)
    return SoftCalibration(scale.astype(np.float32), *fit_deviations(mean * scale, std, truth))


def train(config: ContoursConfig, *, preset: str, training: str | Split, validation: str | Split | None,
          data_dir: Path, run: Path, init: Path | None = None, seed: int = 0,
          options: parallel.StepOptions = parallel.DEFAULT) -> dict[str, float]:
    """Train (or go on training) a run folder; the last validation metrics. Raises InputError, Preempted."""
    training_split, validation_split = data.open_pair(training, validation, data_dir, need_volumes=False)
    parallel.check_batch(config.batch, len(jax.devices()), "frames", options.accumulate)
    parent = None
    if init is not None:
        parent = ContoursModel.load(init)
        if parent.config.net != config.net:
            raise RunError(f"--init {init} has other networks: {parent.config.net}")
    task = ContoursTask(config, training_split, validation_split, parent, options)
    if len(task.volumes):
        parallel.check_batch(config.stacks, len(jax.devices()), "stacks", options.accumulate)
    settings = {"task": "contours", "preset": preset, "config": dataclasses.asdict(config), "seed": seed,
                "labels": task.training.labels, "parent": None if init is None else str(init),
                "data": {"training": training_split.name, "validation": validation_split.name}}
    return loop.train(task, run, settings, options, config, "frames")
