"""The U-Net and the losses of contours: shapes, padding frames, partial labels worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cardiojax.errors import InputError
from cardiojax.nets.draws import rngs_of
from cardiojax.nets.unet import UNet
from cardiojax.train.losses import known_log_probabilities, segmentation

LV, MYOCARDIUM = 1, 2


def net() -> UNet:
    return UNet(channels=1, classes=4, width=2, halvings=2, dtype=jnp.float32, rngs=rngs_of(jax.random.key(0)))


def test_every_pixel_gets_its_logits():
    logits = nnx.jit(lambda net: net(jnp.zeros((3, 8, 12, 1)), jnp.ones(3)))(net())
    assert logits.shape == (3, 8, 12, 4)
    with pytest.raises(InputError, match="multiples of 4 pixels, not 8 × 10"):
        net()(jnp.zeros((3, 8, 10, 1)), jnp.ones(3))


def test_frames_that_fill_up_change_nothing():
    """Statistics and logits of the real frames, in a training pass."""
    frames = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    weight = jnp.array([1.0, 1, 1, 0])
    alone, filled = net(), net()
    trained = nnx.jit(lambda net, frames, weight: net(frames, weight, train=True))
    out = trained(alone, frames[:3], jnp.ones(3))
    np.testing.assert_allclose(trained(filled, frames, weight)[:3], out, atol=1e-5)
    for a, b in zip(*(jax.tree.leaves(nnx.state(n, nnx.BatchStat)) for n in (alone, filled)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_partial_labels_by_hand():
    """2 × 2 pixels, three labels, of which the mask knows background and LV: p(background) is 1 − p(LV)."""
    logits = jnp.log(jnp.array([[[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], [[0.2, 0.2, 0.6], [0.8, 0.1, 0.1]]]]))
    known = jnp.array([[True, True, False]])
    p = np.exp(known_log_probabilities(logits, known))[0]
    np.testing.assert_allclose(p[..., 0], [[0.7, 0.4], [0.8, 0.9]], rtol=1e-5)
    np.testing.assert_allclose(p[..., 1], [[0.3, 0.6], [0.2, 0.1]], rtol=1e-5)
    target = jnp.zeros((1, 2, 2, 3)).at[0, 0, 1, 1].set(1).at[0, :, :, 0].set(jnp.array([[1.0, 0], [1, 1]]))
    loss, found = segmentation(logits, target, known, LV, 0.5)
    entropy = -np.log([0.7, 0.6, 0.8, 0.9]).mean()
    dice = (2 * 0.6 + 1) / (1.2 + 1 + 1)                       # the LV alone: nobody knows the third label
    assert found["cross_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert found["dice"] == pytest.approx(dice, rel=1e-5)
    assert found["area_error"] == pytest.approx(0.2, rel=1e-4)
    assert loss == pytest.approx(entropy + 1 - dice + 0.5 * 0.2, rel=1e-5)


def test_the_gradient_of_a_partial_label_by_hand():
    """Of the cross-entropy of one background pixel, −log(p₀ + p₂): p for the LV; −p₀ p₁ / (p₀ + p₂) and the same with
    p₂ for the two that share the background. So the unknown label is neither pulled down nor told apart."""
    p = np.array([0.5, 0.3, 0.2])

    def entropy(logits):
        return -known_log_probabilities(logits[None, None, None], jnp.array([[True, True, False]]))[0, 0, 0, 0]

    gradient = jax.grad(entropy)(jnp.log(jnp.asarray(p)))
    np.testing.assert_allclose(gradient, [-0.5 * 0.3 / 0.7, 0.3, -0.2 * 0.3 / 0.7], rtol=1e-5)


def test_replicas_with_other_labels_make_one_loss():
    """Two devices, one of frames that know all labels and one of the LV alone: the gradient of one device."""
    k = jax.random.split(jax.random.key(0), 2)
    logits = jax.random.normal(k[0], (4, 4, 4, 4))
    labels = jax.random.randint(k[1], (4, 4, 4), 0, 4)
    known = jnp.array([[True] * 4] * 2 + [[True, True, False, False]] * 2)
    target = jax.nn.one_hot(jnp.where(known[jnp.arange(4)[:, None, None], labels], labels, 0), 4)

    def loss(logits, target, known, axis_name=None):
        return segmentation(logits, target, known, LV, 0.2, axis_name)[0]

    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    spec = jax.sharding.PartitionSpec("data")
    parts = jax.shard_map(lambda *a: jax.grad(loss)(*a, "data") / 2, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec,
                          check_vma=False)           # every replica's loss is the whole batch's
    ours, theirs = (jax.jit(gradient)(logits, target, known) for gradient in (parts, jax.grad(loss)))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
