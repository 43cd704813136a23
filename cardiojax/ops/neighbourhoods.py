"""γ and β of SPADE once for each distinct neighbourhood of labels, instead of once for each pixel.

They come from two 3 × 3 convolutions of the label map, so that the 5 × 5 labels around a pixel decide them. Heart
masks hold few distinct ones (1–3 % of the pixels of a batch at full size), which are computed, and looked up: the
same numbers and gradients as `dense` at a fraction of the work.

On CPU, that is. On a GPU the scattered sums of the backward pass cost more than they save (a G + D step of `large`
takes 72 ms on an H200, densely 46 ms: `benchmarks/results/gpu_h200_before.json`), so every other platform computes each
pixel, and makes no table; `lookup` is the table for a GPU (31 ms).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from cardiojax.ops.convolution import conv

CHUNK = 512                # neighbourhoods computed at a time
FROM_PX = 16               # below, a label map has hardly fewer neighbourhoods than pixels
WINDOWS = np.lib.stride_tricks.sliding_window_view(np.arange(25).reshape(5, 5), (3, 3)).reshape(9, 9)   # of a patch


class Neighbourhoods(NamedTuple):
    """The distinct 5 × 5 label neighbourhoods of a batch of label maps (−1 outside of the map).

    index: row of `patches` for each pixel; count: how many rows are used. More than there are rows means that
    `patches` is incomplete, and the dense way is taken.
    """

    index: Int[Array, "n h w"]
    patches: Int[Array, "k 5 5"]
    count: Int[Array, ""]


def neighbourhoods(labels: Int[Array, "n h w"], classes: int) -> Neighbourhoods | None:
    """What `modulation` looks up, made once for all layers at this resolution; None where the map is too small."""
    if labels.shape[1] < FROM_PX:
        return None
    return lax.platform_dependent(labels, cpu=functools.partial(_table, classes=classes), default=_no_table)


def _capacity(labels: Int[Array, "n h w"]) -> int:
    """Rows of the table: half as many as there are pixels, a quarter from 64 × 64 pixels on, in whole chunks."""
    n, h, w = labels.shape
    capacity = n * h * w // (4 if h >= 64 else 2)
    chunk = min(CHUNK, capacity)
    return -(-capacity // chunk) * chunk


def _no_table(labels: Int[Array, "n h w"]) -> Neighbourhoods:
    """Zeros of the shapes of `_table`, never read: the compiler drops them."""
    return Neighbourhoods(jnp.zeros(labels.shape, jnp.int32), jnp.zeros((_capacity(labels), 5, 5), jnp.int32),
                          jnp.zeros((), jnp.int32))


def _table(labels: Int[Array, "n h w"], classes: int) -> Neighbourhoods:
    order, first = in_order(labels, classes)
    rank = jnp.cumsum(first.astype(jnp.int32)) - 1
    index = jnp.zeros(labels.size, jnp.int32).at[order].set(rank, unique_indices=True)
    (at,) = jnp.nonzero(first, size=_capacity(labels), fill_value=0)
    return Neighbourhoods(index.reshape(labels.shape), patches_at(labels, order[at]), rank[-1] + 1)


def in_order(labels: Int[Array, "n h w"], classes: int) -> tuple[Int[Array, " p"], Bool[Array, " p"]]:
    """The pixels, sorted by their neighbourhoods, and which are the first of theirs.

    The 25 labels, with one more for "outside", are packed exactly into a few 32-bit words. One stable sort a word, the
    last word first: a sort by one key is a radix sort on a GPU.
    """
    n, h, w = labels.shape
    padded = _with_border(labels) + 1
    digits = [padded[:, a:a + h, b:b + w].reshape(-1).astype(jnp.uint32) for a in range(5) for b in range(5)]
    a_word = int(32 / np.log2(classes + 1))
    words = [functools.reduce(lambda word, digit: word * (classes + 1) + digit, digits[i:i + a_word])
             for i in range(0, 25, a_word)]
    order = jnp.arange(n * h * w, dtype=jnp.int32)
    for word in reversed(words):
        _, order = lax.sort((word[order], order), num_keys=1, is_stable=True)
    ordered = [word[order] for word in words]
    first = functools.reduce(jnp.logical_or, [word[1:] != word[:-1] for word in ordered])
    return order, jnp.concatenate([jnp.ones(1, bool), first])


def patches_at(labels: Int[Array, "n h w"], pixels: Int[Array, " k"]) -> Int[Array, "k 5 5"]:
    """The labels around each of these pixels, −1 outside of the map."""
    _, h, w = labels.shape
    image, row, column = pixels // (h * w), pixels // w % h, pixels % w
    window = jnp.arange(5)
    return _with_border(labels)[image[:, None, None], row[:, None, None] + window[:, None],
                                column[:, None, None] + window]


def _with_border(labels):
    return jnp.pad(labels, ((0, 0), (2, 2), (2, 2)), constant_values=-1)


class Weights(NamedTuple):
    """The two convolutions of a modulation: labels → hidden → γ|β, kernels HWIO."""

    shared: Float[Array, "3 3 l h"]
    shared_bias: Float[Array, " h"]
    gamma_beta: Float[Array, "3 3 h c2"]
    gamma_beta_bias: Float[Array, " c2"]


def dense(labels: Int[Array, "n h w"], weights: Weights) -> Float[Array, "n h w c2"]:
    """γ|β of every pixel by the two convolutions."""
    one_hot = jax.nn.one_hot(labels, weights.shared.shape[2], dtype=weights.shared.dtype)
    hidden = jax.nn.relu(conv(one_hot, weights.shared) + weights.shared_bias)
    return conv(hidden, weights.gamma_beta) + weights.gamma_beta_bias


def rows(patches: Int[Array, "k 5 5"], weights: Weights) -> Float[Array, "k c2"]:
    """γ|β at the centre of each neighbourhood; hidden units outside of the map are 0, as zero padding makes them."""
    k, classes = len(patches), weights.shared.shape[2]
    windows = jax.nn.one_hot(patches.reshape(k, 25)[:, WINDOWS], classes, dtype=weights.shared.dtype)
    hidden = jax.nn.relu(windows.reshape(k, 9, -1) @ weights.shared.reshape(9 * classes, -1) + weights.shared_bias)
    inside = (patches[:, 1:4, 1:4] >= 0).reshape(k, 9, 1)
    hidden = (hidden * inside).reshape(k, -1)
    return hidden @ weights.gamma_beta.reshape(hidden.shape[1], -1) + weights.gamma_beta_bias


def modulation(table: Neighbourhoods | None, labels: Int[Array, "n h w"], weights: Weights
               ) -> Float[Array, "n h w c2"]:
    """γ|β of every pixel: `dense`, or the same looked up in the table of `neighbourhoods`."""
    return dense(labels, weights) if table is None else _modulation(table, labels, weights)


@jax.custom_vjp
def _modulation(table: Neighbourhoods, labels: Int[Array, "n h w"], weights: Weights) -> Float[Array, "n h w c2"]:
    def densely(table, labels, weights):
        return dense(labels, weights)

    def looked_up(table, labels, weights):
        return lax.cond(table.count <= len(table.patches), _looked_up, densely, table, labels, weights)

    return lax.platform_dependent(table, labels, weights, cpu=looked_up, default=densely)


def _chunks(table: Neighbourhoods) -> tuple[int, Array]:
    """Size and number of the chunks in use."""
    size = min(CHUNK, len(table.patches))
    return size, (table.count + size - 1) // size


def _looked_up(table: Neighbourhoods, labels, weights: Weights):
    size, chunks = _chunks(table)

    def fill(i, values):
        patches = lax.dynamic_slice_in_dim(table.patches, i * size, size)
        return lax.dynamic_update_slice_in_dim(values, rows(patches, weights), i * size, 0)

    empty = jnp.zeros((len(table.patches), weights.gamma_beta.shape[-1]), weights.shared.dtype)
    return jnp.take(lax.fori_loop(0, chunks, fill, empty), table.index, axis=0, mode="clip")


def _modulation_forward(table, labels, weights):
    return _modulation(table, labels, weights), (table, labels, weights)


def _modulation_backward(residuals, g):
    def densely(table, labels, weights, g):
        return jax.vjp(lambda w: dense(labels, w), weights)[1](g)[0]

    def looked_up(table, labels, weights, g):
        return lax.cond(table.count <= len(table.patches), _looked_up_gradient, densely, table, labels, weights, g)

    return None, None, lax.platform_dependent(*residuals, g, cpu=looked_up, default=densely)


def _looked_up_gradient(table: Neighbourhoods, labels, weights: Weights, g) -> Weights:
    size, chunks = _chunks(table)
    d_table = jnp.zeros((len(table.patches), g.shape[-1]), jnp.float32).at[table.index.reshape(-1)].add(
        g.reshape(-1, g.shape[-1]).astype(jnp.float32), mode="drop")

    def add(i, sums):
        patches = lax.dynamic_slice_in_dim(table.patches, i * size, size)
        dy = lax.dynamic_slice_in_dim(d_table, i * size, size).astype(g.dtype)
        gradient, = jax.vjp(lambda w: rows(patches, w), weights)[1](dy)
        return jax.tree.map(lambda total, part: total + part.astype(jnp.float32), sums, gradient)

    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
    sums = lax.fori_loop(0, chunks, add, zeros)
    return jax.tree.map(lambda total, w: total.astype(w.dtype), sums, weights)


_modulation.defvjp(_modulation_forward, _modulation_backward)
