"""The first weights of a network."""

import jax
import numpy as np
import pytest
from flax import nnx

from cardiojax.nets import draws
from cardiojax.nets.gaugan import Discriminator
from cardiojax.nets.lstm import BidirectionalLSTM
from cardiojax.nets.spade import SpectralConv
from cardiojax.nets.unet import UNet


def kernels(build, seed: int = 0) -> list[np.ndarray]:
    """The 3 × 3 and 4 × 4 kernels, as drawn."""
    network = build(draws.rngs_of(jax.random.key(seed)))
    return [np.asarray(p) for p in jax.tree.leaves(nnx.state(network, nnx.Param)) if p.ndim == 4]


def unet(rngs):
    return UNet(channels=1, classes=4, width=8, halvings=2, dtype=np.float32, rngs=rngs)


def discriminator(rngs):
    return Discriminator(classes=4, channels=1, ndf=4, scales=2, rngs=rngs)


@pytest.mark.parametrize(("build", "variance"), [
    (unet, lambda inputs, outputs, side: 2 / (side**2 * inputs)),                                      # He
    (discriminator, lambda inputs, outputs, side: 0.02**2 * 2 / (side**2 * (inputs + outputs)))])      # NVlabs' xavier
def test_kernels_have_their_own_spread_and_no_number_twice(build, variance):
    drawn = kernels(build)
    units = [k / np.sqrt(variance(*k.shape[2:], k.shape[0])) for k in drawn]
    numbers = np.concatenate([u.ravel() for u in units])
    assert (numbers.mean(), numbers.std()) == pytest.approx((0, 1), abs=0.03)
    assert all(u.std() == pytest.approx(1, abs=0.1) for u in units if u.size > 1000)
    assert len(np.unique(numbers)) > 0.999 * numbers.size


def test_a_key_is_a_network():
    one, again, other = kernels(unet), kernels(unet), kernels(unet, seed=1)
    for a, b, c in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).all()


def test_recurrent_kernels_keep_lengths():
    """What a state becomes for its four gates is, taken together, as long as the state."""
    lstm = BidirectionalLSTM(5, 6, draws.rngs_of(jax.random.key(0)))
    kernel = np.asarray(lstm.forward_rnn.cell.dense_h.kernel[...])
    assert kernel.shape == (6, 24)
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(6), atol=1e-6)


def test_first_weights_have_iterated_spectral_norms():
    """σ is between half of the largest singular value and all of it."""
    conv = SpectralConv(8, 8, 3, np.float32, draws.rngs_of(jax.random.key(0)), spectral=True)
    matrix = conv.kernel[...].reshape(-1, 8)
    sigma, largest = conv.v[...] @ matrix @ conv.u[...], np.linalg.norm(matrix, 2)
    assert largest / 2 < sigma <= largest * (1 + 1e-6)


@pytest.mark.parametrize("build", [unet, discriminator, lambda rngs: BidirectionalLSTM(5, 6, rngs)])
def test_shapes_without_numbers(build):
    """In a traced function, where a key is not known."""
    def state(key):
        return nnx.state(build(draws.rngs_of(key)))

    key = jax.random.key(0)
    assert jax.tree.map(np.shape, state(key)) == jax.tree.map(np.shape, jax.eval_shape(state, key))
