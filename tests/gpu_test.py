"""A GPU gives the CPU's outputs and gradients, though it computes them otherwise: no Winograd, another table of SPADE.

In full float32 (`jax.default_matmul_precision`): a GPU's default rounds the factors of products to TF32. Resuming to
the bit, which is marked `gpu` too, stands with the other tests of training.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cardiojax.config import CONTOURS_PRESETS, SferaNetConfig
from cardiojax.models.looks import new_networks as new_looks
from cardiojax.models.sfera import network_shapes, new_network
from cardiojax.nets.gaugan import Discriminator, Generator
from cardiojax.train import losses

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]
TOLERANCE = 2e-3           # of each array's largest entry: sums in another order, and pixels on the kink of a ReLU
BFLOAT16 = 3e-2            # the same, of what is computed in bfloat16: 8 bits a number


def assert_the_gpu_is_the_cpu(f, *arguments):
    with jax.default_matmul_precision("float32"):
        gpu, cpu = (jax.device_get(jax.jit(f)(*jax.device_put(arguments, device)))
                    for device in (jax.devices()[0], jax.devices("cpu")[0]))
    for ours, truth in zip(jax.tree.leaves(gpu), jax.tree.leaves(cpu), strict=True):
        assert np.isfinite(truth).all()
        np.testing.assert_allclose(ours, truth, atol=TOLERANCE * np.abs(truth).max() + 1e-6)


def test_sfera():
    """Padded stacks, packed; 64 channels in the last blocks, where the CPU goes by Winograd's algorithm."""
    net = SferaNetConfig(size_px=75, width=16, blocks=4, spatial_features=6, lstm_features=5, dropout=0.0)
    graph, params, stats = new_network(net, jax.random.key(0))
    rng = np.random.default_rng(0)
    frames, n_slices = rng.uniform(0, 1, (3, 6, 75, 75, 2)).astype(np.float32), np.array([3, 6, 4], np.int32)

    def everything(params, frames, n_slices):
        def loss(params):
            out = nnx.merge(graph, params, stats, copy=True)(frames, n_slices, train=True, slice_budget=14)
            return (out.volumes ** 2).sum() + (out.areas ** 2).sum(), out
        return jax.value_and_grad(loss, has_aux=True)(params)

    assert_the_gpu_is_the_cpu(everything, params, frames, n_slices)


def test_bfloat16():
    """Volumes, areas and gradients by a network that computes in bfloat16, beside float32's: those of each array
    point the same way."""
    net = SferaNetConfig(size_px=75, width=16, blocks=4, spatial_features=6, lstm_features=5, dropout=0.0)
    _, params, stats = new_network(net, jax.random.key(0))
    frames = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (3, 6, 75, 75, 2)), jnp.float32)
    n_slices = jnp.array([3, 6, 4])

    def of(net):
        def loss(params):
            out = nnx.merge(network_shapes(net)[0], params, stats, copy=True)(frames, n_slices, train=True)
            return (out.volumes ** 2).sum() + (out.areas ** 2).sum(), out
        return jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(params))

    (full, outputs), (half, approximate) = of(net), of(dataclasses.replace(net, dtype="bfloat16"))
    for ours, truth in zip(jax.tree.leaves(approximate), jax.tree.leaves(outputs), strict=True):
        np.testing.assert_allclose(ours, truth, atol=BFLOAT16 * np.abs(truth).max())
    for ours, truth in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert np.vdot(ours, truth) > 0.85 * np.linalg.norm(ours) * np.linalg.norm(truth)      # on a CPU 0.88 and more


def test_contours():
    """One look: channels from 8 to 128, pooled and put together again."""
    graph, params, stats = new_looks(CONTOURS_PRESETS["small"].net, jax.random.key(0))
    frames = np.random.default_rng(0).uniform(0, 1, (2, 64, 64, 1)).astype(np.float32)
    target = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 4)).astype(np.float32)

    def everything(params, frames, target):
        def loss(params):
            logits = nnx.merge(graph, params, stats, copy=True)["coarse"](frames, jnp.ones(2), train=True)
            return jnp.square(logits - target).mean(), logits
        return jax.value_and_grad(loss, has_aux=True)(params)

    assert_the_gpu_is_the_cpu(everything, params, frames, target)


def test_discriminator():
    """The hinge's two sides of a real image and another, and the features that it is taught by."""
    net = Discriminator(ndf=8, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    labels = np.random.default_rng(0).integers(0, 4, (2, 8, 8)).repeat(8, 1).repeat(8, 2)
    fake, real = np.random.default_rng(1).uniform(-1, 1, (2, 2, 64, 64, 1)).astype(np.float32)

    def everything(params, labels, fake, real):
        def loss(params):
            net = nnx.merge(graph, params, rest, copy=True)
            of_fake, of_real = net(labels, fake), net(labels, real)
            return losses.hinge_discriminator(of_real, of_fake), (of_fake, of_real)
        return jax.value_and_grad(loss, has_aux=True)(params)

    assert_the_gpu_is_the_cpu(everything, params, labels, fake, real)


def test_a_step_is_the_same_to_the_bit_with_deterministic_ops():
    """`--xla_gpu_deterministic_ops=true`, which conftest sets: scattered sums and convolutions in one order."""
    assert "--xla_gpu_deterministic_ops=true" in os.environ["XLA_FLAGS"]
    g = Generator(size_px=64, ngf=4, hidden=8, upsamplings="few", rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(g, nnx.Param, ...)
    labels = np.random.default_rng(0).integers(0, 4, (2, 8, 8)).repeat(8, 1).repeat(8, 2)

    @jax.jit
    def gradients(params, labels):
        def loss(params):
            net = nnx.merge(graph, params, rest, copy=True)
            return jnp.square(net(net.label_maps(labels, {32: 2048, 64: 4096}), train=True)).mean()
        return jax.grad(loss)(params)

    once, again = (jax.device_get(gradients(params, labels)) for _ in range(2))
    for a, b in zip(*map(jax.tree.leaves, (once, again)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rows", [None, {32: 2048, 64: 4096}], ids=["platform's", "table"])
def test_generator(rows):
    """From each platform's own: looked up on the CPU, computed for every pixel on the GPU; from a table of so many
    rows."""
    g = Generator(size_px=64, ngf=4, hidden=8, upsamplings="few", rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(g, nnx.Param, ...)
    labels = np.random.default_rng(0).integers(0, 4, (2, 8, 8)).repeat(8, 1).repeat(8, 2)
    target = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 1)).astype(np.float32)

    def everything(params, labels, target):
        def loss(params):
            net = nnx.merge(graph, params, rest, copy=True)
            fake = net(net.label_maps(labels, rows), train=True)
            return jnp.square(fake - target).mean(), fake
        return jax.value_and_grad(loss, has_aux=True)(params)

    assert_the_gpu_is_the_cpu(everything, params, labels, target)
