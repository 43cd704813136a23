"""Statistics that belong to an averaged generator: those of the training are another's, of the weights of its steps."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Integer

from cardiojax.config import GauganConfig, GauganNetConfig
from cardiojax.data.frames import FrameBatch, Frames
from cardiojax.models.gaugan import generator_shapes, padded
from cardiojax.models.phases import joined
from cardiojax.nets.gaugan import STYLE, padded_px
from cardiojax.nets.spade import MOMENTUM, SpectralVector, power_iteration
from cardiojax.train.average import mean_of

BATCHES = 20               # of training masks, unaugmented


def re_estimated(params: nnx.State, stats: nnx.State, config: GauganConfig, training: Frames,
                 shard: Callable[[FrameBatch], FrameBatch]) -> nnx.State:
    """Means over training masks. Each pass moves u and v of the spectral norms towards those of these weights first."""
    rng, size, moments = np.random.default_rng(0), min(config.batch, len(training)), []
    for i in range(BATCHES):
        batch = training.batch(rng.choice(len(training), size, replace=False), config.net.size_px)
        stats, of_batch = _of_batch(config.net, params, stats, shard(batch).masks, i)
        moments.append(of_batch)
    return jax.tree.map(lambda mean, last: last if isinstance(last, SpectralVector) else mean, mean_of(moments), stats,
                        is_leaf=lambda x: isinstance(x, nnx.Variable))


@functools.partial(jax.jit, static_argnums=0)
def _of_batch(config: GauganNetConfig, params, stats, masks: Integer[jax.Array, "b h w *p"], i
              ) -> tuple[nnx.State, nnx.State]:
    """Statistics after a pass, and those of this batch alone: what moved, without the momentum."""
    net = nnx.merge(generator_shapes(config)[0], params, stats, copy=True)
    power_iteration(net)
    noise = jax.random.normal(jax.random.key(i), (len(masks), STYLE)) if config.style else None
    labels = joined(padded(masks, padded_px(config.size_px, config.upsamplings), "constant"), config)
    net(net.label_maps(labels), train=True, style=noise)
    new = nnx.state(net, nnx.BatchStat)
    return new, jax.tree.map(lambda new, old: (new - (1 - MOMENTUM) * old) / MOMENTUM, new, stats)
