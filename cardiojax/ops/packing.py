"""Works on the real slices of padded stacks only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

PART = 64                  # slices that an accelerator looks at together


def encoded_slices(encode: Callable[[Array, Array], Array], stacks: Float[Array, "b s *d"], real: Bool[Array, "b s"],
                   slice_budget: int | None, cpu_part: int | None = None) -> Float[Array, "b s f"]:
    """`encode(slices (n, …), weight (n,)) → (n, f)` of every real slice, 0 for padding; `weight` 0 marks padding.

    slice_budget: a static bound on the real slices. So many are packed, encoded and put back; with None, or more
    than there are slices, all are encoded where they lie. A bound that is too small gives NaN, never a slice less.
    cpu_part: where no gradients are wanted, as in `map_real_slices`, which a CPU then takes.
    """
    if cpu_part is not None and slice_budget is not None and is_fastest_in_parts():
        return map_real_slices(lambda some: encode(some, jnp.ones(len(some))), (stacks,), real, cpu_part)
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


def is_fastest_in_parts() -> bool:
    """Whether what a few slices need at a time fits a cache of this machine, which is then faster than all at once."""
    return jax.default_backend() == "cpu"


def map_real_slices(see: Callable[..., Any], stacks: tuple[Array, ...], real: Bool[Array, "b s"], cpu_part: int) -> Any:
    """`see(*slices (n, …)) → arrays (n, …)` of every real slice, as (b, s, …), zeros for padding. No gradients pass.

    stacks: arrays (b, s, …) that slices are taken from. They are seen in parts, no more of them than the real ones
    fill: one program for any number of them. cpu_part: slices of a part whose arrays fit a CPU's cache.
    """
    b, s = real.shape
    flat = [x.reshape(b * s, *x.shape[2:]) for x in stacks]
    part = min(cpu_part if is_fastest_in_parts() else PART, b * s)
    (at,) = jnp.nonzero(real.reshape(-1), size=-(-b * s // part) * part, fill_value=b * s)

    def seen_at(some):
        return see(*(jnp.take(x, some, axis=0, mode="clip") for x in flat))

    def seen_too(i, found):
        some = jax.lax.dynamic_slice(at, (i * part,), (part,))
        return jax.tree.map(lambda all_, new: all_.at[some].set(new, mode="drop"), found, seen_at(some))

    nothing = jax.tree.map(lambda x: jnp.zeros((b * s, *x.shape[1:]), x.dtype), jax.eval_shape(seen_at, at[:part]))
    found = jax.lax.fori_loop(0, -(-real.sum() // part), seen_too, nothing)
    return jax.tree.map(lambda x: x.reshape(b, s, *x.shape[1:]), found)
