"""Training losses, as equations on arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def masked_rmse(predicted: Float[Array, "..."], target: Float[Array, "..."], weight: Float[Array, "..."],
                axis_name: str | None = None) -> Float[Array, ""]:
    """√( Σ w (p − t)² / Σ w ), the paper's RMSE loss over what is real; 0 where nothing is.

    Under pmap the sums run over all replicas (`axis_name`), and the root is taken after.
    """
    weight = jnp.broadcast_to(weight, predicted.shape)
    squared = jnp.where(weight > 0, predicted - jnp.where(weight > 0, target, 0.0), 0.0) ** 2
    total, count = (weight * squared).sum(), weight.sum()
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    mean = total / jnp.maximum(count, 1.0)
    return jnp.sqrt(jnp.maximum(mean, 1e-12)) * (count > 0)
