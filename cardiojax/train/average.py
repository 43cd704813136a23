"""The average of a network's weights, which is what evaluations and the run's model use."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


def averaged(average: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """decay · average + (1 − decay) · params, where the decay rises to `decay` as (1 + step) / (10 + step), so that the
    random first weights are soon forgotten. 0 is no average: `params`."""
    return optax.incremental_update(params, average, 1 - jnp.minimum(decay, (1 + step) / (10 + step)))
