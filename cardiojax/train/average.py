"""The average of a network's weights, which is what evaluations and the run's model use, and of its statistics."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int


def averaged(average: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """decay · average + (1 − decay) · params, where the decay rises to `decay` as (1 + step) / (10 + step), so that the
    random first weights are soon forgotten. 0 is no average: `params`."""
    return optax.incremental_update(params, average, 1 - jnp.minimum(decay, (1 + step) / (10 + step)))


def mean_of(parts: Sequence[Any]) -> Any:
    """Of trees, leaf by leaf. On the host: a program for each sum would take longer than the sum."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.mean(leaves, axis=0)), *jax.device_get(list(parts)))
