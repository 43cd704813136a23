"""One update of both U-Nets of the contours, each at its own scale; also by volumes, of stacks without masks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from cardiojax.config import AugmentConfig, ContoursNetConfig
from cardiojax.data.labelled import LabelledBatch, Stacks
from cardiojax.models.looks import (
    COARSE_PX,
    FINE_PX,
    crop,
    halved_mean,
    heart,
    heart_centre,
    network_shapes,
    padded_coarse,
    with_neighbours,
)
from cardiojax.nets.layers import MOMENTUM
from cardiojax.preparation.augment import augment, augment_labelled, labelled_planes, study_keys
from cardiojax.train import losses, parallel, rates
from cardiojax.train.state import State, updated
from cardiojax.units import LV


@functools.cache
def optimiser(weight_decay: float) -> optax.GradientTransformationExtraArgs:
    """Adam, decoupled weight decay, at a rate that `update` is given."""
    return optax.flatten(optax.chain(
        optax.scale_by_adam(), optax.add_decayed_weights(weight_decay), rates.by_rate()))


@dataclasses.dataclass(frozen=True)
class ContoursStep:
    """(state, batch, key, constants) → (state, metrics), pure. Equal ones are one compiled program (`Parallel`)."""

    net: ContoursNetConfig
    augment: AugmentConfig
    area_weight: float
    volume_weight: float
    ema: float
    optimiser: optax.GradientTransformation
    accumulate: int = 1
    remat: bool = False

    def __call__(self, state: State, batch: LabelledBatch, key: Array, constants: rates.Cosine,
                 axis_name: str | None = None) -> tuple[State, dict[str, Array]]:
        def keys(which: int, count: int) -> Array:         # of this replica's share of the batch
            first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
            return study_keys(jax.random.fold_in(jax.random.fold_in(key, state.step), which), count, first)

        coarse, fine = self.looks(batch, keys(0, len(batch.images)), keys(1, len(batch.images)), self.augment)
        stacks = batch.stacks
        if stacks is not None:
            stacks = self._augmented(stacks, keys(2, len(stacks.frames)))

        graph = network_shapes(self.net, self.remat)[0]

        def loss(params, stats, micro):
            networks = nnx.merge(graph, params, stats, copy=True)
            total, metrics = self._loss(networks, *micro, axis_name)
            return total, (nnx.state(networks, nnx.BatchStat), {"loss": total, **metrics})

        gradients, stats, metrics = parallel.gradients(loss, state.params, state.stats,
                                                       (coarse, fine, batch.known, stacks), self.accumulate)
        state, metrics["gradient_norm"] = updated(state, gradients, stats, self.optimiser, constants, self.ema,
                                                   axis_name)
        return state, metrics

    def looks(self, batch: LabelledBatch, coarse_keys: Array, fine_keys: Array, augment: AugmentConfig):
        """Images and label shares as each of the two networks sees them, augmented by themselves."""
        planes = labelled_planes(batch.images, batch.masks)
        return (augment_labelled(coarse_keys, halved_mean(planes), jnp.zeros_like(batch.centre_px), COARSE_PX, augment),
                augment_labelled(fine_keys, planes, batch.centre_px, FINE_PX, augment))

    def _augmented(self, stacks: Stacks, keys: Array) -> Stacks:
        """`frames` become images (B, S, 1, 150, 150, C) with their neighbours."""
        frames, volume_ml, _ = augment(keys, stacks.frames[..., None], stacks.n_slices, stacks.volume_ml[:, None],
                                       jnp.zeros((*stacks.frames.shape[:2], 1)), self.augment)
        images = with_neighbours(frames.transpose(0, 1, 4, 2, 3), self.net.neighbours)
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
        first, metrics = losses.segmentation(logits[:count], shares, known, LV, self.area_weight, axis_name)
        metrics = {f"coarse_{k}": v for k, v in metrics.items()}
        if stacks is not None:
            seen = heart(jax.nn.softmax(logits[count:])[:, None]).reshape(b, s, COARSE_PX, COARSE_PX)
            centre_px = heart_centre((seen * real[:, :, None, None]).sum(1))
            round_heart = jax.vmap(crop)(stacks.frames[:, :, 0], centre_px).reshape(b * s, FINE_PX, FINE_PX, c)
            crops = jnp.concatenate([crops, round_heart])
        logits = networks["fine"](crops, weight, train=True, axis_name=axis_name)
        second, more = losses.segmentation(logits[:count], fine_shares, known, LV, self.area_weight, axis_name)
        metrics |= {f"fine_{k}": v for k, v in more.items()}
        total = first + second
        if stacks is not None:
            area_mm2 = jax.nn.softmax(logits[count:])[..., LV].sum((1, 2)).reshape(b, s) * real
            error = losses.relative_error(area_mm2.sum(1) * stacks.slice_spacing_mm / 1000, stacks.volume_ml, axis_name)
            total, metrics = total + self.volume_weight * error, metrics | {"volume_error": error}
        return total, metrics


@functools.partial(jax.jit, static_argnums=0)
def moments_of(step: ContoursStep, params: nnx.State, batch: LabelledBatch, i) -> nnx.State:
    """The statistics of one batch alone: what a training pass leaves of statistics that were zero."""
    graph, _, shapes = network_shapes(step.net)
    networks = nnx.merge(graph, params, jax.tree.map(jnp.zeros_like, shapes), copy=True)
    keys = study_keys(jax.random.key(i), len(batch.images))
    calm = dataclasses.replace(step.augment, scale=0.0, intensity=0.0)
    for name, (images, _) in zip(("coarse", "fine"), step.looks(batch, keys, keys, calm), strict=True):
        networks[name](images, jnp.ones(len(images)), train=True)
    return jax.tree.map(lambda kept: kept / (1 - MOMENTUM), nnx.state(networks, nnx.BatchStat))
