"""The GauGAN task: two steps an iteration, the generator's and then the discriminator's, as NVlabs/SPADE trains."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jaxtyping import Array

from cardiojax import data
from cardiojax.config import GauganConfig
from cardiojax.data import Split
from cardiojax.data.frames import PREVIEWS, FrameBatch, Frames, training_batches
from cardiojax.errors import DataError, RunError, TrainingDiverged
from cardiojax.evaluate import figures
from cardiojax.evaluate.judge import Judge
from cardiojax.evaluate.metrics import ssim
from cardiojax.models import mask_reader, perceptual
from cardiojax.models.gaugan import (
    GauganModel,
    build_discriminator,
    build_generator,
    net_config,
    networks_of,
    new_networks,
    padded,
)
from cardiojax.models.saved import opened
from cardiojax.nets.gaugan import STYLE, Discriminator, padded_px
from cardiojax.nets.spade import missing_rows, power_iteration
from cardiojax.ops import lookup
from cardiojax.preparation.augment import augment_frames, study_keys
from cardiojax.train import loop, losses, parallel, rates
from cardiojax.train.average import averaged
from cardiojax.train.generator_statistics import re_estimated
from cardiojax.train.table_rows import table_rows
from cardiojax.units import LV

log = logging.getLogger("cardiojax")

AREA_WEIGHT = 0.2          # of the LV's area in the loss of a mask that must be found, as in contours' training


@struct.dataclass
class State:
    """The state of a training, as checkpoints keep it; `ema` is the average of the generator's parameters, to evaluate.

    The statistics are running means and variances, and the u and v of the spectral norms.
    """

    step: Any              # int32 (); shapes and shardings stand for it too, as for every array here
    generator: nnx.State
    generator_stats: nnx.State
    discriminator: nnx.State
    discriminator_stats: nnx.State
    ema: nnx.State
    generator_opt: optax.OptState
    discriminator_opt: optax.OptState


class Constants(NamedTuple):
    """What a step only reads: the weights of the perceptual network and of the contours, if any, and the rates."""

    features: Any
    reader: Any
    generator_rate: rates.Linear
    discriminator_rate: rates.Linear


class GauganTask:
    """`init`, `step` and `evaluate` of one training run; `step` is pure and is jitted by the caller."""

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
        self.features, self.reader, self.judge, self.parent = features, reader, judge, init
        start = int(config.decay_from * config.steps)
        self.constants = Constants(
            getattr(features, "weights", ()), getattr(reader, "weights", ()),
            *(rates.Linear.of(peak, config.steps, start)
              for peak in (config.generator_rate, config.discriminator_rate)))
        self.size_px = padded_px(config.net.size_px, config.net.upsamplings)
        self.generator = nnx.graphdef(nnx.eval_shape(lambda: build_generator(config.net, nnx.Rngs(0), options.remat)))
        self.discriminator = nnx.graphdef(nnx.eval_shape(lambda: build_discriminator(config.net, nnx.Rngs(0))))
        self.generator_optimiser, self.discriminator_optimiser = (
            optax.chain(optax.scale_by_adam(b1=0.0, b2=0.9), rates.by_rate()) for _ in range(2))
        self.examples = validation.examples(PREVIEWS, config.net.size_px)

    def init(self, key: Array) -> State:
        networks = self.parent or new_networks(self.config.net, key)
        generator, generator_stats, discriminator, discriminator_stats = networks
        return State(jnp.zeros((), jnp.int32), generator, generator_stats, discriminator, discriminator_stats,
                     jax.tree.map(jnp.copy, generator), self.generator_optimiser.init(generator),
                     self.discriminator_optimiser.init(discriminator))

    def batches(self, seed: int, process: int = 0, processes: int = 1, devices: int = 1):
        return training_batches(self.training, size_px=self.config.net.size_px, batch=self.config.batch, seed=seed,
                                process=process, processes=processes,
                                reading=data.Reading(self.options.workers, self.options.keep_gib))

    def step(self, state: State, batch: FrameBatch, key: Array, constants: Constants,
             axis_name: str | None = None) -> tuple[State, dict[str, Array]]:
        """G on the features of D and its hinge; then D on a fresh pass of the updated G (NVlabs `pix2pix_trainer`)."""
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(batch.images)
        augment_key, style_key = jax.random.split(jax.random.fold_in(key, state.step))
        images, labels = augment_frames(study_keys(augment_key, len(batch.images), first), batch.images, batch.masks,
                                        self.config.augment)
        images = jnp.repeat(padded(2 * images - 1, self.size_px, "reflect")[..., None], self.config.net.channels, -1)
        labels = padded(labels, self.size_px, "constant")
        maps = self._maps(state.generator, state.generator_stats, labels) if self.options.accumulate == 1 else None
        noise, fresh_noise = (jax.vmap(lambda k: jax.random.normal(k, (STYLE,)))(study_keys(k, len(images), first))
                              for k in jax.random.split(style_key))

        def generator_loss(params, state, micro):
            return self._generator_loss(params, state, *micro, maps, constants, axis_name)

        def discriminator_loss(params, state, micro):
            return self._discriminator_loss(params, state, *micro, maps, axis_name)

        gradients, state, metrics = parallel.gradients(
            generator_loss, state.generator, state, (images, labels, noise), self.options.accumulate)
        generator, generator_opt = self._updated(self.generator_optimiser, gradients, state.generator,
                                                 state.generator_opt, constants.generator_rate, axis_name)
        ema = averaged(state.ema, generator, self.config.ema, state.step)
        state = dataclasses.replace(state, generator=generator, generator_opt=generator_opt, ema=ema)

        gradients, state, d_metrics = parallel.gradients(
            discriminator_loss, state.discriminator, state, (images, labels, fresh_noise), self.options.accumulate)
        discriminator, discriminator_opt = self._updated(
            self.discriminator_optimiser, gradients, state.discriminator, state.discriminator_opt,
            constants.discriminator_rate, axis_name)
        metrics |= d_metrics
        if axis_name is not None:
            metrics = jax.lax.pmean(metrics, axis_name)
        return dataclasses.replace(state, step=state.step + 1, discriminator=discriminator,
                             discriminator_opt=discriminator_opt), metrics

    def _maps(self, params: nnx.State, stats: nnx.State, labels):
        """Label maps, made once for both passes, with the tables of γ and β that this machine is fast with."""
        rows = None
        if self.options.spade == "dense":
            rows = {}
        elif self.options.spade == "table" or lookup.is_fastest():
            rows = self._rows(len(labels))
        return nnx.merge(self.generator, params, stats, copy=True).label_maps(labels, rows)

    @functools.cache                                         # noqa: B019 (a task lives as long as its training)
    def _rows(self, batch: int) -> dict[int, int]:
        return table_rows(self.training, self.config, batch)

    def _updated(self, optimiser, gradients, params, opt, rate, axis_name):
        if axis_name is not None:
            gradients = jax.lax.pmean(gradients, axis_name)
        return rates.descended(optimiser, gradients, opt, params, rate)

    def _fake(self, params: nnx.State, state: State, images, labels, noise, maps, axis_name):
        """A train-mode pass of G: images, its new statistics, and the KL divergence of their styles."""
        net = nnx.merge(self.generator, params, state.generator_stats, copy=True)
        power_iteration(net)
        style, divergence = None, 0.0
        if net.encoder is not None:
            mean, log_variance = net.encoder(images)
            style = mean + jnp.exp(0.5 * log_variance) * noise
            divergence = losses.kl_divergence(mean, log_variance)
            if axis_name is not None:       # a sum over the batch: of all replicas, where their mean is taken after
                divergence = divergence * jax.lax.axis_size(axis_name)
        maps = maps or self._maps(params, state.generator_stats, labels)
        fake = net(maps, train=True, style=style, axis_name=axis_name)
        return fake, nnx.state(net, nnx.BatchStat), divergence

    def _after_power_iteration(self, params: nnx.State, stats: nnx.State) -> tuple[Discriminator, nnx.State]:
        """D after one power iteration, as before every train-mode pass, and its new statistics."""
        net = nnx.merge(self.discriminator, params, stats, copy=True)
        power_iteration(net)
        return net, nnx.state(net, nnx.BatchStat)

    def _generator_loss(self, params, state: State, images, labels, noise, maps, constants, axis_name):
        fake, generator_stats, divergence = self._fake(params, state, images, labels, noise, maps, axis_name)
        discriminator, discriminator_stats = self._after_power_iteration(state.discriminator, state.discriminator_stats)
        on_fake, on_real = discriminator(labels, fake), discriminator(labels, images)   # instance norm: as in one batch
        adversarial = losses.hinge_generator(on_fake)
        features = self.config.feature_weight * losses.feature_matching(on_fake, on_real)
        total = adversarial + features + self.config.kl_weight * divergence
        metrics = {"g_hinge": adversarial, "g_features": features}
        if self.features is not None:
            perceptual_loss = self.config.perceptual_weight * losses.perceptual(
                self.features(constants.features, fake), self.features(constants.features, images))
            total, metrics["g_perceptual"] = total + perceptual_loss, perceptual_loss
        if self.reader is not None:
            mask_loss, found = losses.segmentation(*self.reader(constants.reader, fake, labels), LV, AREA_WEIGHT,
                                                   axis_name)
            total += self.config.contours_weight * mask_loss
            metrics |= {"g_mask": mask_loss, "g_mask_dice": found["dice"]}
        if self.config.net.style:
            metrics["kl"] = divergence
        state = dataclasses.replace(state, generator_stats=generator_stats, discriminator_stats=discriminator_stats)
        return total, (state, {"loss": total, **metrics})

    def _discriminator_loss(self, params, state: State, images, labels, noise, maps, axis_name):
        maps = maps or self._maps(state.generator, state.generator_stats, labels)
        fake, stats, _ = self._fake(state.generator, state, images, labels, noise, maps, axis_name)
        state = dataclasses.replace(state, generator_stats=stats)
        discriminator, stats = self._after_power_iteration(params, state.discriminator_stats)
        fake_and_real = jnp.concatenate([jax.lax.stop_gradient(fake), images])
        outputs = discriminator(jnp.concatenate([labels, labels]), fake_and_real)
        n = len(fake)
        loss = losses.hinge_discriminator([[f[n:] for f in s] for s in outputs], [[f[:n] for f in s] for s in outputs])
        metrics = {"d_hinge": loss}
        if (missing := missing_rows(maps)) is not None:
            metrics["spade_rows_missing"] = missing.astype(jnp.float32)
        return loss, (dataclasses.replace(state, discriminator_stats=stats), metrics)

    def evaluate(self, state: State, shard: Callable[[FrameBatch], FrameBatch], everything: bool = True
                 ) -> tuple[dict[str, float], dict, dict[str, np.ndarray]]:
        """Figures of the averaged generator on held-out masks, the model, and a grid of mask, fake and real."""
        stats = re_estimated(self.generator, state.ema, state.generator_stats, self.config, self.training, shard)
        model = {"generator": state.ema, "generator_stats": stats,
                 "discriminator": state.discriminator, "discriminator_stats": state.discriminator_stats}
        generator = GauganModel(self.config.net, self.training.labels, state.ema, model["generator_stats"])
        fakes, reals = generator.generate(self.examples.masks), self.examples.images / 127.5 - 1
        gray = fakes if fakes.ndim == 3 else fakes.mean(-1)
        metrics = {"ssim": float(np.mean([ssim(f, r) for f, r in zip(gray, reals, strict=True)])),
                   "l1": float(np.abs(gray - reals).mean())}
        if self.judge is not None:
            metrics |= self.judge.flat(generator)
        return metrics, model, {"samples": figures.sample_grid(self.examples.masks, gray, reals)}

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
    task = GauganTask(config, Frames(training_split), Frames(validation_split), perceptual.load(config),
                      parent(init, config), None if judge is None else Judge(judge, validation_split), options,
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
        task.options = dataclasses.replace(options, spade="dense")
        return loop.train(task, run, settings, task.options, config, "images")


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
