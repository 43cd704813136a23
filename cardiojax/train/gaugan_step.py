"""Two updates of a GauGAN, the generator's and then the discriminator's, as NVlabs/SPADE trains."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array

from cardiojax.config import AffineConfig, GauganNetConfig
from cardiojax.data.frames import FrameBatch
from cardiojax.models.gaugan import build_discriminator, build_generator, padded
from cardiojax.models.mask_reader import MaskReader
from cardiojax.models.perceptual import Features
from cardiojax.models.phases import images_apart, joined, labels_apart
from cardiojax.nets.gaugan import STYLE, Discriminator, padded_px
from cardiojax.nets.spade import missing_rows, power_iteration
from cardiojax.preparation.augment import augment_frames, study_keys
from cardiojax.train import losses, parallel, rates
from cardiojax.train.average import averaged
from cardiojax.units import LV

AREA_WEIGHT = 0.2          # of the LV's area in the loss of a mask that must be found, as in contours' training


@struct.dataclass
class GauganState:
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


@functools.cache
def optimiser() -> optax.GradientTransformationExtraArgs:
    """Adam as NVlabs/SPADE has it, of either network, at a rate that `update` is given."""
    return optax.chain(optax.scale_by_adam(b1=0.0, b2=0.9), rates.by_rate())


@dataclasses.dataclass(frozen=True)
class GauganStep:
    """(state, batch, key, constants) → (state, metrics), pure. Equal ones are one compiled program (`Parallel`).

    features, reader: without their weights, which are constants. rows: of the tables of γ and β, by the number of
    images; None: as is fastest without a count.
    """

    net: GauganNetConfig
    augment: AffineConfig
    feature_weight: float
    perceptual_weight: float
    contours_weight: float
    kl_weight: float
    ema: float
    features: Features | None = None
    reader: MaskReader | None = None
    rows: Callable[[int], dict[int, int]] | None = None
    generator_optimiser: optax.GradientTransformation = dataclasses.field(default_factory=optimiser)
    discriminator_optimiser: optax.GradientTransformation = dataclasses.field(default_factory=optimiser)
    accumulate: int = 1
    remat: bool = False

    @functools.cached_property
    def generator_graph(self) -> nnx.GraphDef:
        return nnx.graphdef(nnx.eval_shape(lambda: build_generator(self.net, nnx.Rngs(0), self.remat)))

    @functools.cached_property
    def discriminator_graph(self) -> nnx.GraphDef:
        return nnx.graphdef(nnx.eval_shape(lambda: build_discriminator(self.net, nnx.Rngs(0))))

    @property
    def size_px(self) -> int:
        return padded_px(self.net.size_px, self.net.upsamplings)

    def __call__(self, state: GauganState, batch: FrameBatch, key: Array, constants: Constants,
                 axis_name: str | None = None) -> tuple[GauganState, dict[str, Array]]:
        """G on the features of D and its hinge; then D on a fresh pass of the updated G (NVlabs `pix2pix_trainer`)."""
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(batch.images)
        augment_key, style_key = jax.random.split(jax.random.fold_in(key, state.step))
        images, labels = augment_frames(study_keys(augment_key, len(batch.images), first), batch.images, batch.masks,
                                        self.augment)
        images = padded(2 * images - 1, self.size_px, "reflect")
        images = jnp.repeat(images.reshape(*images.shape[:3], -1), self.net.channels, -1)
        labels = joined(padded(labels, self.size_px, "constant"), self.net)
        maps = self._maps(state.generator, state.generator_stats, labels) if self.accumulate == 1 else None
        noise, fresh_noise = (jax.vmap(lambda k: jax.random.normal(k, (STYLE,)))(study_keys(k, len(images), first))
                              for k in jax.random.split(style_key))

        def generator_loss(params, state, micro):
            return self._generator_loss(params, state, *micro, maps, constants, axis_name)

        def discriminator_loss(params, state, micro):
            return self._discriminator_loss(params, state, *micro, maps, axis_name)

        gradients, state, metrics = parallel.gradients(
            generator_loss, state.generator, state, (images, labels, noise), self.accumulate)
        generator, generator_opt = self._updated(self.generator_optimiser, gradients, state.generator,
                                                 state.generator_opt, constants.generator_rate, axis_name)
        ema = averaged(state.ema, generator, self.ema, state.step)
        state = dataclasses.replace(state, generator=generator, generator_opt=generator_opt, ema=ema)

        gradients, state, d_metrics = parallel.gradients(
            discriminator_loss, state.discriminator, state, (images, labels, fresh_noise), self.accumulate)
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
        rows = self.rows and self.rows(len(labels))
        return nnx.merge(self.generator_graph, params, stats, copy=True).label_maps(labels, rows)

    def _updated(self, optimiser, gradients, params, opt, rate, axis_name):
        if axis_name is not None:
            gradients = jax.lax.pmean(gradients, axis_name)
        return rates.descended(optimiser, gradients, opt, params, rate)

    def _fake(self, params: nnx.State, state: GauganState, images, labels, noise, maps, axis_name):
        """A train-mode pass of G: images, its new statistics, and the KL divergence of their styles."""
        net = nnx.merge(self.generator_graph, params, state.generator_stats, copy=True)
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
        net = nnx.merge(self.discriminator_graph, params, stats, copy=True)
        power_iteration(net)
        return net, nnx.state(net, nnx.BatchStat)

    def _generator_loss(self, params, state: GauganState, images, labels, noise, maps, constants, axis_name):
        fake, generator_stats, divergence = self._fake(params, state, images, labels, noise, maps, axis_name)
        discriminator, discriminator_stats = self._after_power_iteration(state.discriminator, state.discriminator_stats)
        on_fake, on_real = discriminator(labels, fake), discriminator(labels, images)   # instance norm: as in one batch
        adversarial = losses.hinge_generator(on_fake)
        features = self.feature_weight * losses.feature_matching(on_fake, on_real)
        total = adversarial + features + self.kl_weight * divergence
        metrics = {"g_hinge": adversarial, "g_features": features}
        if self.features is not None:
            perceptual_loss = self.perceptual_weight * losses.perceptual(
                *(self.features(constants.features, images_apart(i, self.net)) for i in (fake, images)))
            total, metrics["g_perceptual"] = total + perceptual_loss, perceptual_loss
        if self.reader is not None:
            read = self.reader(constants.reader, images_apart(fake, self.net), labels_apart(labels, self.net))
            mask_loss, found = losses.segmentation(*read, LV, AREA_WEIGHT, axis_name)
            total += self.contours_weight * mask_loss
            metrics |= {"g_mask": mask_loss, "g_mask_dice": found["dice"]}
        if self.net.style:
            metrics["kl"] = divergence
        state = dataclasses.replace(state, generator_stats=generator_stats, discriminator_stats=discriminator_stats)
        return total, (state, {"loss": total, **metrics})

    def _discriminator_loss(self, params, state: GauganState, images, labels, noise, maps, axis_name):
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
