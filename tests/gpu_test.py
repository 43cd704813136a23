"""A GPU gives the CPU's outputs and gradients, though it computes them otherwise: no Winograd, another table of SPADE.

In full float32 (`jax.default_matmul_precision`): a GPU's default rounds the factors of products to TF32. Resuming to
the bit, which is marked `gpu` too, stands with the other tests of training.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cardiojax.config import SferaNetConfig
from cardiojax.models.sfera import network_shapes, new_network
from cardiojax.nets.gaugan import Generator

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
    """Volumes and areas by a network that computes in bfloat16, beside float32's."""
    net = SferaNetConfig(size_px=75, width=16, blocks=4, spatial_features=6, lstm_features=5, dropout=0.0)
    _, params, stats = new_network(net, jax.random.key(0))
    frames = np.random.default_rng(0).uniform(0, 1, (3, 6, 75, 75, 2)).astype(np.float32)
    full, half = (jax.device_get(nnx.merge(network_shapes(of)[0], params, stats, copy=True)(
        frames, np.array([3, 6, 4], np.int32), train=True)) for of in (net, dataclasses.replace(net, dtype="bfloat16")))
    for ours, truth in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        np.testing.assert_allclose(ours, truth, atol=BFLOAT16 * np.abs(truth).max())


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
