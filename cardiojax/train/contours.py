"""The contours task: every step both U-Nets learn from the same frames, each at its own scale."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from cardiojax import data
from cardiojax.config import ContoursConfig
from cardiojax.data import Split
from cardiojax.data.frames import Frames
from cardiojax.data.labelled import labelled_batches, taught_by_volume
from cardiojax.errors import RunError
from cardiojax.evaluate.metrics import Accumulator, with_ef
from cardiojax.evaluate.overlap import DiceSum
from cardiojax.models.contours import UNCALIBRATED, ContoursModel, SoftCalibration, measured
from cardiojax.models.looks import limited_to, new_networks
from cardiojax.preparation import SIZE_PX
from cardiojax.preparation.batch import Batch, batch_of
from cardiojax.study import Study
from cardiojax.train import loop, parallel, rates
from cardiojax.train.average import mean_of
from cardiojax.train.calibration import MIN_STUDIES, fit_deviations
from cardiojax.train.contours_step import ContoursStep, moments_of, optimiser
from cardiojax.train.state import State, first_state, volume_score
from cardiojax.units import LABELS

STATISTICS_BATCHES = 20        # of training frames, that the batch statistics are re-estimated from
STUDIES = 2                    # that a device measures at a time
SAMPLED_STUDIES = 64           # that evaluations before the last look at


class ContoursTask:
    """`init`, `step` and `evaluate` of one training run; `step` is a `ContoursStep`, jitted by the caller."""

    def __init__(self, config: ContoursConfig, training: Split, validation: Split, init: ContoursModel | None = None,
                 options: parallel.StepOptions = parallel.DEFAULT):
        """Raises DataError where no training study has masks."""
        self.config, self.training, self.validation, self.options = config, Frames(training), validation, options
        self.parent, self.volumes = init, taught_by_volume(training) if config.stacks else np.array([], int)
        self.mean_predictor = with_ef(training.volumes_ml[np.isfinite(training.volumes_ml).all(1)]).mean(axis=0)
        self.constants = rates.Cosine.of(config.learning_rate, config.steps, min(config.warmup, config.steps // 2))
        self.step = ContoursStep(config.net, config.augment, config.area_weight, config.volume_weight, config.ema,
                                 optimiser(config.weight_decay), options.accumulate, options.remat)

    def init(self, key: Array) -> State:
        if self.parent:
            params, stats = jax.device_put((self.parent.params, self.parent.stats), may_alias=False)
        else:
            _, params, stats = new_networks(self.config.net, key)
        return first_state(limited_to(self.training.labels, params), stats, self.step.optimiser)

    def batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1):
        return labelled_batches(self.training, self.volumes, neighbours=self.config.net.neighbours,
                                batch=self.config.batch, stacks=self.config.stacks, seed=seed, process=process,
                                processes=processes, reading=self.options.reading)

    def evaluate(self, state: State, shard: Callable, everything: bool = True
                 ) -> tuple[dict[str, float], dict, dict[str, np.ndarray]]:
        """Validation metrics of the averaged weights (volumes before calibration; the Dice of each label over all
        frames), and the model that gave them: the arrays of a `ContoursModel`. Without `everything` of a sample of the
        studies, in one view."""
        params, stats = state.ema, self.re_estimated(state.ema, shard)
        indices = data.sample_of(self.validation, len(self.validation) if everything else SAMPLED_STUDIES)
        seen = self._measured(params, stats, indices, self.config.views if everything else 1, shard)
        mean_ml, std_ml, truth_ml, both, sizes = np.split(seen, np.cumsum([2, 2, 2, len(LABELS)]), axis=1)
        known = np.isfinite(truth_ml).all(1)
        result = Accumulator(self.mean_predictor)
        result.add(mean_ml[known], truth_ml[known])
        return result.flat() | DiceSum(both.sum(0), sizes.sum(0)).means(), {
            "params": params, "stats": stats, "calibration": calibrated(mean_ml, std_ml, truth_ml),
            "mean_predictor": self.mean_predictor}, {}

    def _measured(self, params, stats, indices: Int[np.ndarray, " n"], views: int, shard) -> Float[np.ndarray, "n k"]:
        """Of validation studies the volumes, their deviations and what they should be (ml, EDV and ESV each), and the
        pixels of `DiceSum`; every process measures its share."""
        weights, mine = tuple(jax.tree.leaves((params, stats))), parallel.share_of(indices)
        size, slices = STUDIES * jax.local_device_count(), data.max_slices(self.validation)

        def read(start: int) -> tuple[list[Study], Batch]:
            studies = [self.validation[int(i)] for i in mine[start:start + size]]
            return studies, batch_of(studies, SIZE_PX, fill_to=size, slices=slices)

        rows = []
        for studies, batch in data.one_ahead(read, range(0, len(mine), size)):
            found = measured(self.config.net, views, weights, UNCALIBRATED, shard(batch))
            for study, mean_ml, std_ml, truth_ml, labels in zip(studies, *map(np.asarray, (
                    found.mean_ml, found.std_ml, batch.volumes_ml, found.seen.labels)), strict=False):
                dice = DiceSum()
                if study.masks is not None:
                    dice.add(np.moveaxis(labels[:len(study)], 1, -1), study.masks)
                rows.append(np.concatenate([mean_ml, std_ml, truth_ml, dice.both, dice.sizes]))
        return parallel.of_all(np.array(rows), len(indices))

    def score(self, metrics: dict[str, float]) -> float:
        return volume_score(metrics)

    def re_estimated(self, params: nnx.State, shard: Callable) -> nnx.State:
        """Batch statistics that belong to `params`: means over augmented training frames."""
        batches = self.batches(seed=1)
        return mean_of([moments_of(self.step, params, shard(next(batches)), i) for i in range(STATISTICS_BATCHES)])


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
    if len(task.volumes) and not options.dry_run:
        parallel.check_batch(config.stacks, len(jax.devices()), "stacks", options.accumulate)
    settings = {"task": "contours", "preset": preset, "config": dataclasses.asdict(config), "seed": seed,
                "labels": task.training.labels, "parent": None if init is None else str(init),
                "data": {"training": training_split.name, "validation": validation_split.name}}
    return loop.train(task, run, settings, options, config, "frames")
