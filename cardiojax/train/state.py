"""The state of a task with one network to train, and how a step ends."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array

from cardiojax.train import rates
from cardiojax.train.average import averaged


@struct.dataclass
class State:
    """The state of a training, as checkpoints keep it; `ema` is the average of `params`, for evaluation."""

    step: Any              # int32 (); shapes and shardings stand for it too, as for every array here
    params: nnx.State
    stats: nnx.State
    ema: nnx.State
    opt: optax.OptState


def first_state(params: nnx.State, stats: nnx.State, optimiser: optax.GradientTransformation) -> State:
    ema = jax.device_put(params, may_alias=False)                # its own buffers: the step donates the whole state
    return State(jnp.zeros((), jnp.int32), params, stats, ema, optimiser.init(params))


def updated(state: State, gradients: nnx.State, stats: nnx.State, optimiser: optax.GradientTransformation,
            rate: Any, ema_decay: float, axis_name: str | None) -> tuple[State, Array]:
    """The state after a step of the optimiser at this rate (`train.rates`), with these statistics; and the norm of the
    gradients.

    axis_name: of replicas whose losses are each the whole batch's, so that each gradient counts the replicas once too
    often.
    """
    if axis_name is not None:
        gradients = jax.lax.pmean(gradients, axis_name)
    params, opt = rates.descended(optimiser, gradients, state.opt, state.params, rate)
    ema = averaged(state.ema, params, ema_decay, state.step)
    return State(state.step + 1, params, stats, ema, opt), optax.global_norm(gradients)


def volume_score(metrics: dict[str, float]) -> float:
    """Of an evaluation, lower is better: mean of the RMSE of EDV, ESV and EF over the mean predictor's."""
    return sum(metrics[f"{k}_rmse"] / max(metrics[f"{k}_rmse_mean_predictor"], 1e-6) for k in ("edv", "esv", "ef")) / 3
