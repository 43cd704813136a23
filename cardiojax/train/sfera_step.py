"""One update of SFERA: volumes ÷ slice spacing, scaled to [0, 1], and the LV's area of each slice, by RMSE."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from cardiojax.config import AugmentConfig, SferaNetConfig
from cardiojax.models.sfera import Scaling, network_shapes
from cardiojax.nets.sfera import TYPICAL_SLICES
from cardiojax.preparation.augment import augment, study_keys
from cardiojax.preparation.batch import Batch
from cardiojax.train import losses, parallel, rates
from cardiojax.train.state import State, updated


@functools.cache
def optimiser(clip_norm: float, weight_decay: float) -> optax.GradientTransformationExtraArgs:
    """RAdam, decoupled weight decay, at a rate that `update` is given. clip_norm: 0 clips nothing."""
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.flatten(optax.chain(                # one vector: a hundred small loops less to compile
        clip, optax.scale_by_radam(), optax.add_decayed_weights(weight_decay), rates.by_rate()))


@dataclasses.dataclass(frozen=True)
class SferaStep:
    """(state, batch, key, constants) → (state, metrics), pure. Equal ones are one compiled program (`Parallel`)."""

    net: SferaNetConfig
    augment: AugmentConfig
    area_weight: float
    ema: float
    optimiser: optax.GradientTransformation
    accumulate: int = 1
    remat: bool = False

    def __call__(self, state: State, batch: Batch, key: Array, constants: tuple[Scaling, rates.Cosine],
                 axis_name: str | None = None) -> tuple[State, dict[str, Array]]:
        scaling, rate = constants
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(batch.frames)
        augment_keys, dropout_keys = (study_keys(k, len(batch.frames), first)
                                      for k in jax.random.split(jax.random.fold_in(key, state.step)))
        frames, volumes, areas = augment(augment_keys, batch.frames, batch.n_slices, batch.volumes_ml,
                                         batch.area_mm2, self.augment)
        target = scaling.scale(volumes, batch.slice_spacing_mm)
        # an area (mm²) / 1000 is that slice's share of V / spacing (ml/mm); see SferaOutput.areas
        share = areas / 1000.0 / (scaling.high - scaling.low) * TYPICAL_SLICES

        slice_budget = batch.slice_budget if self.accumulate == 1 else None
        graph = network_shapes(self.net, self.remat)[0]

        def loss(params, stats, micro):
            frames, n_slices, target, share, dropout_keys = micro
            model = nnx.merge(graph, params, stats, copy=True)
            out = model(frames, n_slices, train=True, slice_budget=slice_budget, dropout_keys=dropout_keys,
                        axis_name=axis_name)
            volume = losses.masked_rmse(out.volumes, target, jnp.ones_like(target), axis_name)
            area = losses.masked_rmse(out.areas, share, ~jnp.isnan(share) * 1.0, axis_name)
            total = volume + self.area_weight * area
            return total, (nnx.state(model, nnx.BatchStat), {"loss": total, "volume_rmse": volume, "area_rmse": area})

        gradients, stats, metrics = parallel.gradients(
            loss, state.params, state.stats, (frames, batch.n_slices, target, share, dropout_keys),
            self.accumulate)
        state, metrics["gradient_norm"] = updated(state, gradients, stats, self.optimiser, rate, self.ema,
                                                   axis_name)
        return state, metrics
