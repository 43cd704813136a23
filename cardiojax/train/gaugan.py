"""The GauGAN task: two steps an iteration, the generator's and then the discriminator's, as NVlabs/SPADE trains."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from cardiojax import data
from cardiojax.config import GauganConfig
from cardiojax.data import Split
from cardiojax.data.frames import PREVIEWS, FrameBatch, Frames, training_batches
from cardiojax.errors import DataError, RunError, TrainingDiverged
from cardiojax.evaluate.judge import Judge, warn_of_a_teacher
from cardiojax.evaluate.metrics import ssim
from cardiojax.evaluate.samples import generated, sample_grid
from cardiojax.models import mask_reader, perceptual
from cardiojax.models.gaugan import GauganModel, net_config, networks_of, new_networks
from cardiojax.models.saved import opened
from cardiojax.ops import lookup
from cardiojax.preparation.batch import single_frames
from cardiojax.train import loop, parallel, rates
from cardiojax.train.gaugan_step import Constants, GauganState, GauganStep
from cardiojax.train.generator_statistics import re_estimated
from cardiojax.train.table_rows import no_rows, table_rows

log = logging.getLogger("cardiojax")


class GauganTask:
    """`init`, `step` and `evaluate` of one training run; `step` is a `GauganStep`, jitted by the caller."""

    def __init__(self, config: GauganConfig, training: Frames, validation: Frames, features=None,
                 init: tuple[nnx.State, ...] | None = None, judge: Judge | None = None,
                 options: parallel.StepOptions = parallel.DEFAULT, reader: mask_reader.MaskReader | None = None):
        """features: the perceptual network; init: the model to start from; judge: held-out figures of a generator;
        reader: what must find the masks in the images.

        Raises DataError for labels that the network has no room for, and for held-out ones not in the training data.
        """
        if max(training.labels) >= config.net.classes:
            raise DataError(f"the masks hold label {max(training.labels)}; --classes {config.net.classes} is too few")
        if unseen := sorted(set(validation.labels) - set(training.labels)):
            raise DataError(f"{validation.split.name} has label {unseen[0]}, which {training.split.name} never shows")
        self.config, self.training, self.validation, self.options = config, training, validation, options
        self.judge, self.parent = judge, init
        start = int(config.decay_from * config.steps)
        self.constants = Constants(
            getattr(features, "weights", ()), getattr(reader, "weights", ()),
            *(rates.Linear.of(peak, config.steps, start)
              for peak in (config.generator_rate, config.discriminator_rate)))
        self.step = GauganStep(
            net=config.net, augment=config.augment, feature_weight=config.feature_weight,
            perceptual_weight=config.perceptual_weight, contours_weight=config.contours_weight,
            kl_weight=config.kl_weight, ema=config.ema, features=features and dataclasses.replace(features, weights=()),
            reader=reader and dataclasses.replace(reader, weights=()), rows=self.rows(options.spade),
            accumulate=options.accumulate, remat=options.remat)
        self.examples = validation.examples(PREVIEWS, config.net.size_px)

    def rows(self, spade: Literal["auto", "table", "dense"]) -> Callable[[int], dict[int, int]] | None:
        """Of the tables of γ and β, by the number of images; None: as is fastest without a count."""
        if spade == "dense":
            return no_rows
        if spade == "table" or lookup.is_fastest():
            return functools.cache(functools.partial(table_rows, self.training, self.config))
        return None

    def init(self, key: Array) -> GauganState:
        networks = self.parent or new_networks(self.config.net, key)
        generator, generator_stats, discriminator, discriminator_stats = networks
        return GauganState(jnp.zeros((), jnp.int32), generator, generator_stats, discriminator, discriminator_stats,
                           jax.device_put(generator, may_alias=False), self.step.generator_optimiser.init(generator),
                           self.step.discriminator_optimiser.init(discriminator))

    def batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1):
        return training_batches(self.training, size_px=self.config.net.size_px, batch=self.config.batch, seed=seed,
                                process=process, processes=processes,
                                reading=self.options.reading)

    def evaluate(self, state: GauganState, shard: Callable[[FrameBatch], FrameBatch], everything: bool = True
                 ) -> tuple[dict[str, float], dict, dict[str, np.ndarray]]:
        """Figures of the averaged generator on held-out masks, the model, and a grid of mask, fake and real. Without
        `everything` the judge looks at a sample."""
        stats = re_estimated(state.ema, state.generator_stats, self.config, self.training, shard)
        model = {"generator": state.ema, "generator_stats": stats,
                 "discriminator": state.discriminator, "discriminator_stats": state.discriminator_stats}
        generator = GauganModel(self.config.net, self.training.labels, state.ema, model["generator_stats"])
        fakes, reals = generated(generator, self.examples)
        metrics = {"ssim": float(np.mean([ssim(f, r) for f, r in zip(fakes, reals, strict=True)])),
                   "l1": float(np.abs(fakes - reals).mean())}
        if self.judge is not None:
            metrics |= (self.judge if everything else self.judge.sampled).flat(generator)
        return metrics, model, {"samples": sample_grid(single_frames(self.examples.masks), fakes, reals)}

    def score(self, metrics: dict[str, float]) -> float:
        """Lower is better: the error of the volumes that the judge reads (ml), else the distance from the real images.

        Not the Fréchet distance: it went on falling where the volumes grew worse (`gaugan_small_acdc.json`).
        """
        if self.judge is not None:
            return metrics["edv_rmse"] + metrics["esv_rmse"]
        return metrics["l1"]


def train(config: GauganConfig, *, preset: str, training: str | Split, validation: str | Split | None,
          data_dir: Path, run: Path, init: Path | None = None, judge: Path | None = None, seed: int = 0,
          options: parallel.StepOptions = parallel.DEFAULT) -> dict[str, float]:
    """Train (or go on training) a run folder; the last evaluation's figures. Raises InputError, Preempted."""
    training_split, validation_split = data.open_pair(training, validation, data_dir, need_volumes=False)
    parallel.check_batch(config.batch, len(jax.devices()), "images", options.accumulate)
    training_frames, validation_frames = (Frames(s, config.net.phases) for s in (training_split, validation_split))
    if judge is not None:
        warn_of_a_teacher(dataclasses.asdict(config), judge)
    task = GauganTask(config, training_frames, validation_frames, perceptual.load(config), parent(init, config),
                      None if judge is None else Judge(judge, validation_split), options,
                      mask_reader.load(config.contours, config.net))
    settings = {"task": "gaugan", "preset": preset, "config": dataclasses.asdict(config), "seed": seed,
                "labels": task.training.labels, "parent": None if init is None else str(init),
                "data": {"training": training_split.name, "validation": validation_split.name},
                "judge": None if judge is None else str(judge)}
    try:
        return loop.train(task, run, settings, options, config, "images")
    except TrainingDiverged as error:
        if not error.metrics.get("spade_rows_missing"):
            raise
        log.warning("a batch holds more neighbourhoods of labels than the table of γ and β has rows; from the last "
                    "checkpoint on every pixel is computed (--spade dense)")
        task.step = dataclasses.replace(task.step, rows=no_rows)
        return loop.train(task, run, settings, options, config, "images")


def parent(init: Path | None, config: GauganConfig) -> tuple[nnx.State, ...] | None:
    """The weights of the run that training starts from. Raises RunError where its network is another."""
    if init is None:
        return None
    settings, arrays, _ = opened(init, "gaugan")
    net = net_config(settings["config"])
    overrides: dict = {"dtype": config.net.dtype}
    if not net.style:
        overrides["size_px"] = config.net.size_px        # without a style encoder the network has no size of its own
    if dataclasses.replace(net, **overrides) != config.net:
        raise RunError(f"--init {init} has another network: {net}")
    model = networks_of(arrays, net)
    if model[2] is None:
        raise RunError(f"--init {init} has no discriminator to go on with")
    return tuple(jax.tree.map(jnp.asarray, part) for part in model)
