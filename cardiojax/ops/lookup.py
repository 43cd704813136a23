"""SPADE's modulation from a table of γ and β of a fixed number of rows, for GPUs.

As `neighbourhoods` computes γ and β once for each distinct 5 × 5 neighbourhood, but without a loop or a branch, whose
predicates a GPU would have to ask its host for. The number of rows is fixed when the step is traced, from a count of
the data (`train.table_rows`); a batch with more of them comes out as NaN, never as something that looks right. γ and β
of a pixel are read while they are used, and never written. Their gradients are summed in blocks: nine tenths of the
pixels are alike, and atomic sums of them all into one row would be done one after the other. On an H200 a layer of 128
channels at 160 pixels takes 0.18 ms forward, densely 1.09, and its gradient 0.25
(`benchmarks/results/gpu_h200_lookup.json`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cardiojax.ops.neighbourhoods import Weights, in_order, patches_at, rows

BLOCK = 16                 # pixels of one row that are summed before they meet other blocks


class Lookup(NamedTuple):
    """The distinct neighbourhoods of a batch of label maps, and which pixels have them.

    index: row of each pixel; patches: the labels of each row (−1 outside of the map); missing: how many neighbourhoods
    found no room. For the gradients: pixels of one row in blocks (the number of all pixels where a block is not full),
    and the row of each block.
    """

    index: Int[Array, "n h w"]
    patches: Int[Array, "k 5 5"]
    missing: Int[Array, ""]
    blocks: Int[Array, "m 16"]
    block_row: Int[Array, " m"]


def is_fastest() -> bool:
    """Whether this is a machine on which a table of fixed size is the fastest way."""
    return jax.default_backend() == "gpu"


def lookup(labels: Int[Array, "n h w"], classes: int, count: int) -> Lookup:
    """A table of `count` rows."""
    pixels = labels.size
    order, first = in_order(labels, classes)
    rank = jnp.cumsum(first.astype(jnp.int32)) - 1
    index = jnp.zeros(pixels, jnp.int32).at[order].set(rank, unique_indices=True)
    at = jnp.arange(pixels, dtype=jnp.int32)
    start = jnp.full(count, pixels, jnp.int32).at[jnp.where(first, rank, count)].set(at, mode="drop")
    patches = patches_at(labels, order.at[start].get(mode="clip"))
    return Lookup(index.reshape(labels.shape), patches, jnp.maximum(rank[-1] + 1 - count, 0), *_blocks(order, start))


def _blocks(order: Int[Array, " p"], start: Int[Array, " k"]) -> tuple[Int[Array, "m 16"], Int[Array, " m"]]:
    """Pixels in the order of their rows, cut into blocks that each belong to one row; `start`: of each row."""
    pixels, count = len(order), len(start)
    end = jnp.append(start[1:], pixels)
    blocks = -(-(end - start) // BLOCK)                    # of each row
    before = jnp.cumsum(blocks) - blocks
    total = pixels // BLOCK + count
    row = jnp.cumsum(jnp.zeros(total, jnp.int32).at[before[1:]].add(1, mode="drop"))
    position = start[row] + (jnp.arange(total) - before[row]) * BLOCK
    position = position[:, None] + jnp.arange(BLOCK)
    return jnp.where(position < end[row][:, None], order.at[position].get(mode="clip"), pixels), row


def modulated(x: Float[Array, "n h w c"], table: Lookup, weights: Weights) -> Float[Array, "n h w c"]:
    """x·(1 + γ) + β. NaN where the table lacks a neighbourhood."""
    values = rows(table.patches, weights)
    return _modulated(x, jnp.where(table.missing > 0, jnp.nan, values), table)


@jax.custom_vjp
def _modulated(x, values: Float[Array, "k c2"], table: Lookup):
    gamma, beta = jnp.split(values, 2, axis=-1)
    return x * (1 + _taken(gamma, table.index)) + _taken(beta, table.index)


def _taken(values, index):
    return values.at[index].get(mode="clip")


def _forward(x, values, table):
    return _modulated(x, values, table), (x, values, table)


def _backward(residuals, g):
    x, values, table = residuals
    channels = x.shape[-1]
    dx = g * (1 + _taken(values[:, :channels], table.index))
    of_gamma, of_beta = (a.reshape(-1, channels).at[table.blocks].get(mode="fill", fill_value=0).astype(jnp.float32)
                         for a in (x, g))
    sums = (of_gamma * of_beta).sum(axis=1), of_beta.sum(axis=1)
    d_values = [jnp.zeros((len(values), channels), jnp.float32).at[table.block_row].add(s, indices_are_sorted=True)
                for s in sums]
    return dx, jnp.concatenate(d_values, axis=-1).astype(values.dtype), None


_modulated.defvjp(_forward, _backward)
