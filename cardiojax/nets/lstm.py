"""A bidirectional LSTM over padded sequences, both directions in one scan.

The input's products are made before the scan, in one, and the directions go side by side, so that a step is one small
product and its gates: on a GPU a scan's time is that of its launches.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from cardiojax.nets.draws import drawing, lecun, orthogonal
from cardiojax.ops.scan import scan


class BidirectionalLSTM(nnx.Bidirectional):
    """`nnx.Bidirectional` of two optimised LSTMs, with their parameters and their numbers."""

    def __init__(self, features: int, hidden: int, rngs: nnx.Rngs):
        super().__init__(*(nnx.RNN(nnx.OptimizedLSTMCell(
            features, hidden, kernel_init=drawing(lecun, rngs), recurrent_kernel_init=drawing(orthogonal, rngs),
            rngs=rngs), rngs=False) for _ in range(2)), rngs=False)

    def __call__(self, x: Float[Array, "b s f"], lengths: Int[Array, " b"]
                 ) -> tuple[Float[Array, "b s h2"], Float[Array, "b h2"]]:
        """Outputs, forward | backward, and both final hidden states. The first `lengths` of each sequence are real;
        outputs on the rest mean nothing."""
        rnns: tuple[Any, Any] = self.forward_rnn, self.backward_rnn
        cells = [rnn.cell for rnn in rnns]
        inputs = jnp.stack([x, reversed_sequences(x, lengths)])                              # 2 b s f
        w_x, w_h = (jnp.stack([getattr(c, name).kernel[...] for c in cells]) for name in ("dense_i", "dense_h"))
        bias = jnp.stack([c.dense_h.bias[...] for c in cells])
        inputs = jnp.einsum("dbsf,dfg->sdbg", inputs, w_x) + bias[:, None]
        real = jnp.arange(x.shape[1])[:, None] < lengths                                     # s b

        def step(state, at):
            gates, real = at
            cell, hidden = state
            i, f, g, o = jnp.split(gates + jnp.einsum("dbh,dhg->dbg", hidden, w_h), 4, axis=-1)
            new_cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            new = new_cell, jax.nn.sigmoid(o) * jnp.tanh(new_cell)
            state = jax.tree.map(lambda new, old: jnp.where(real[:, None], new, old), new, state)
            return state, state[1]

        zero = jnp.zeros((2, len(x), w_h.shape[1]), inputs.dtype)
        (_, final), outputs = scan(step, (zero, zero), (inputs, real))
        forward, backward = jnp.moveaxis(outputs, 0, 2)                                      # each b s h
        return (jnp.concatenate([forward, reversed_sequences(backward, lengths)], axis=-1),
                jnp.concatenate(list(final), axis=-1))


def reversed_sequences(x: Float[Array, "b s f"], lengths: Int[Array, " b"]) -> Float[Array, "b s f"]:
    """Each sequence's first `lengths` entries in reverse, what follows them as it is."""
    at = jnp.arange(x.shape[1])
    return jnp.take_along_axis(x, jnp.where(at < lengths[:, None], lengths[:, None] - 1 - at, at)[..., None], axis=1)
