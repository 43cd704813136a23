"""Encodes the real slices of padded stacks only."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def on_real_slices(encode: Callable[[Array, Array], Array], stacks: Float[Array, "b s *d"], real: Bool[Array, "b s"],
                   slice_budget: int | None) -> Float[Array, "b s f"]:
    """`encode(slices (n, …), weight (n,)) → (n, f)` of every real slice, 0 for padding; `weight` 0 marks padding.

    slice_budget: a static bound on the real slices. So many are packed, encoded and put back; with None, or more
    than there are slices, all are encoded where they lie. A bound that is too small gives NaN, never a slice less.
    """
    b, s = real.shape
    flat, real = stacks.reshape(b * s, *stacks.shape[2:]), real.reshape(-1)
    if slice_budget is None or slice_budget >= b * s:
        encoded = encode(flat, real.astype(jnp.float32))
    else:
        (at,) = jnp.nonzero(real, size=slice_budget, fill_value=b * s)
        packed = encode(jnp.take(flat, at, axis=0, mode="fill", fill_value=0.0), (at < b * s).astype(jnp.float32))
        packed = jnp.where(real.sum() <= slice_budget, packed, jnp.nan)
        encoded = jnp.zeros((b * s, packed.shape[-1]), packed.dtype).at[at].set(packed, mode="drop")
    return encoded.reshape(b, s, -1) * real.reshape(b, s, 1)
