"""Learning rates as arrays that a step is given: one compiled step serves every rate and every number of steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int


class Cosine(NamedTuple):
    """Up to `peak` over `warmup` steps, then to 0 at the last of `steps` along half a cosine."""

    peak: Float[np.ndarray, ""]
    warmup: Float[np.ndarray, ""]
    steps: Float[np.ndarray, ""]

    @classmethod
    def of(cls, peak: float, steps: int, warmup: int = 0) -> "Cosine":
        return cls(*np.array([peak, warmup, steps], np.float32))

    def at(self, count: Int[Array, ""] | int) -> Float[Array, ""]:
        rising = count / jnp.maximum(self.warmup, 1)
        done = jnp.clip((count - self.warmup) / (self.steps - self.warmup), 0, 1)
        return self.peak * jnp.where(count < self.warmup, rising, 0.5 * (1 + jnp.cos(jnp.pi * done)))


class Linear(NamedTuple):
    """`peak` up to step `start`, then linearly to 0 at the last of `steps`."""

    peak: Float[np.ndarray, ""]
    start: Float[np.ndarray, ""]
    steps: Float[np.ndarray, ""]

    @classmethod
    def of(cls, peak: float, steps: int, start: int) -> "Linear":
        return cls(*np.array([peak, start, steps], np.float32))

    def at(self, count: Int[Array, ""] | int) -> Float[Array, ""]:
        return self.peak * (1 - jnp.clip((count - self.start) / jnp.maximum(self.steps - self.start, 1), 0, 1))


def by_rate() -> optax.GradientTransformationExtraArgs:
    """The end of an optimiser: down the gradient, as far as the `rate` that `update` is given says.

    Its state is that of `optax.scale_by_learning_rate`, which checkpoints hold.
    """
    def init(params):
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, rate: Cosine | Linear):
        del params
        step = -rate.at(state.count)
        return jax.tree.map(lambda u: step * u, updates), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def descended(optimiser: optax.GradientTransformation, gradients, opt: optax.OptState, params, rate):
    """Parameters and the optimiser's state after a step, of one that ends by `by_rate` or has a rate of its own."""
    updates, opt = optax.with_extra_args_support(optimiser).update(gradients, opt, params, rate=rate)
    return optax.apply_updates(params, updates), opt
