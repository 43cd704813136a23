"""What must not lose digits on a GPU, whose default for float32 products is TF32: read off the lowered program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cardiojax.models.ridge import Ridge
from cardiojax.nets.draws import rngs_of
from cardiojax.nets.layers import MaskedBatchNorm
from cardiojax.nets.sfera import Sfera
from cardiojax.nets.spade import SpectralConv, power_iteration

RIDGE = Ridge(np.ones((2, 4), np.float32), np.ones(2, np.float32), np.ones(4, np.float32),
              np.ones((2, 4, 4), np.float32), np.ones(2, np.float32), np.float32(0))
GRAPH, STATE = nnx.split(SpectralConv(2, 3, 3, jnp.float32, rngs_of(jax.random.key(0)), spectral=True))


def sigma(state, x):
    """A convolution by kernel / σ, whose own products are no matter of σ."""
    return nnx.merge(GRAPH, state)(x)


def iterated(state):
    net = nnx.merge(GRAPH, state)
    power_iteration(net)
    return nnx.state(net)


def normalised(x, weight):
    return MaskedBatchNorm(2)(x, weight, train=True)


X = jnp.ones((2, 4, 4, 2))


@pytest.mark.parametrize(("function", "arguments"), [
    (RIDGE.predict, (jnp.ones((3, 4)),)), (RIDGE.coefficient_variance, (jnp.ones((3, 4)),)),
    (iterated, (STATE,)), (sigma, (STATE, X)), (normalised, (X, jnp.ones(2))),
    (jax.grad(lambda state, x: sigma(state, x).sum()), (STATE, X))],
    ids=["ridge", "ridge covariance", "power iteration", "sigma", "batch statistics", "gradient through sigma"])
def test_products_are_of_highest_precision(function, arguments):
    """Lowered for a GPU: on a CPU convolutions' gradients are written as products (`ops.convolution`)."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    products = re.findall(r"stablehlo\.dot_general.*", text)
    assert products
    assert all(re.search(r"precision = \[HIGHEST, HIGHEST\]", line) for line in products), products


def test_the_head_of_sfera_is_too():
    net = nnx.eval_shape(lambda: Sfera(size_px=32, width=1, blocks=5, spatial_features=2, lstm_features=3,
                                       readout="sum", dropout=0.0, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert net.head.precision == jax.lax.Precision.HIGHEST
