"""The network's laws: padding, batch companions and packing change nothing, in outputs, statistics and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cardiojax.config import SFERA_PRESETS, SferaNetConfig
from cardiojax.models.sfera import network_shapes, new_network
from cardiojax.nets.layers import MaskedBatchNorm
from cardiojax.nets.lstm import BidirectionalLSTM
from cardiojax.ops import convolution, pooling
from cardiojax.ops.pooling import max_pool_2x2

TINY = SferaNetConfig(size_px=75, width=2, blocks=3, spatial_features=6, lstm_features=5, dropout=0.0)
PARAMETERS = {"paper": 6_202_434, "large": 6_202_434, "small": 1_619_042, "tiny": 102_122}


@pytest.mark.parametrize("preset", SFERA_PRESETS)
def test_exact_parameter_count(preset):
    _, shapes, _ = network_shapes(SFERA_PRESETS[preset].net)
    assert sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes)) == PARAMETERS[preset]


@functools.cache
def network(net):
    return new_network(net, jax.random.key(3))


@functools.partial(jax.jit, static_argnums=(0, 3))
def everything(net, frames, n, slice_budget):
    graph, params, stats = network(net)

    def loss(params):
        model = nnx.merge(graph, params, stats, copy=True)
        out = model(frames, n, train=True, slice_budget=slice_budget)
        return (out.volumes ** 2).sum() + (out.areas ** 3).sum(), (out, nnx.state(model, nnx.BatchStat))

    return jax.value_and_grad(loss, has_aux=True)(params)


def run(net, frames, n, slice_budget=None):
    """Outputs of the real part, statistics and gradients of a loss over them."""
    network(net)                                        # outside of the trace
    (_, (out, new)), gradients = everything(net, jnp.asarray(frames), jnp.asarray(n), slice_budget)
    return out.volumes, out.features, jax.tree.leaves(new), jax.tree.leaves(gradients)


def close(a, b, tolerance=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * max(1e-3, float(np.abs(x).max())))


@pytest.fixture(scope="module")
def stacks():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1, (3, 6, 75, 75, 2)).astype(np.float32), np.array([3, 6, 4], np.int32)


@pytest.mark.parametrize("readout", ["sum", "final"])
def test_padding_changes_nothing(stacks, readout):
    """Other values in the padding, and more of it: the same outputs, statistics and gradients."""
    frames, n = stacks
    net = dataclasses.replace(TINY, readout=readout)
    dirty = np.concatenate([frames, np.full_like(frames[:, :3], 7.0)], axis=1)
    for i, length in enumerate(n):
        dirty[i, length:] = np.random.default_rng(i).normal(size=dirty[i, length:].shape)
    close(run(net, frames, n), run(net, dirty, n))


def test_packing_changes_nothing(stacks):
    frames, n = stacks
    whole = run(TINY, frames, n)
    close(whole, run(TINY, frames, n, slice_budget=14))
    close(whole, run(TINY, frames, n, slice_budget=13))


def test_a_prediction_does_not_depend_on_its_companions(stacks):
    """Nor on whether its slices are convolved all at once or, as a CPU does it, a few at a time."""
    frames, n = stacks

    @functools.partial(jax.jit, static_argnums=2)
    def outputs(frames, n, slice_budget=None):
        return nnx.merge(*network(TINY), copy=True)(frames, n, slice_budget=slice_budget)

    network(TINY)
    together = outputs(frames, n)
    close(together, outputs(frames, n, 13))
    for i in range(len(n)):
        alone = outputs(frames[i:i + 1, :n[i]], n[i:i + 1])
        close(together.volumes[i], alone.volumes[0])
        close(together.features[i], alone.features[0])


def test_bfloat16_convolves_near_float32_and_keeps_parameters(stacks):
    frames, n = stacks
    exact, fast = (run(dataclasses.replace(TINY, dtype=d), frames, n) for d in ("float32", "bfloat16"))
    assert {str(g.dtype) for g in fast[3]} == {"float32"}
    assert not np.array_equal(exact[1], fast[1])
    np.testing.assert_allclose(exact[1], fast[1], atol=0.05 * float(np.abs(exact[1]).max()))


def test_masked_batch_norm_by_hand():
    norm = MaskedBatchNorm(2)
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (5, 4, 4, 2)).astype(np.float32))
    weight = jnp.array([1.0, 0, 1, 1, 0])
    out = norm(x, weight, train=True)
    real = x[np.array([0, 2, 3])]
    np.testing.assert_allclose(out[np.array([0, 2, 3])], (real - real.mean((0, 1, 2))) / real.std((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(norm.mean[...], 0.1 * real.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.square[...], 0.9 + 0.1 * (real**2).mean((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("side", "size", "stride", "pad", "channels"), [
    (3, (9, 7), 1, None, (3, 5)), (1, (6, 6), 1, None, (3, 5)), (3, (9, 8), 2, 1, (3, 5)), (4, (9, 8), 2, 2, (3, 5)),
    (4, (6, 6), 1, 2, (3, 5)), (4, (6, 6), 1, 2, (5, 3)), (3, (6, 7), 1, None, (5, 4)),
    (3, (8, 6), 1, None, (64, 72)), (3, (7, 5), 1, 1, (80, 64)), (3, (1, 1), 1, 1, (64, 64)),
    (3, (5, 4), 1, 1, (16, 48))])
def test_fast_convolution_and_its_gradients_are_the_convolutions(side, size, stride, pad, channels, monkeypatch):
    """The last four go by Winograd's algorithm, with odd sides among them; the very last in two parts of three images,
    as also the gradient of the kernel of 5 × 4 channels."""
    monkeypatch.setattr(convolution, "WORTHWHILE", 0)
    if channels == (16, 48):
        monkeypatch.setattr(convolution, "OF_KERNEL", 0)
        monkeypatch.setattr(convolution, "CACHE_BYTES", 4 * 16 * size[0] * size[1] * sum(channels))
    if channels == (5, 4):
        monkeypatch.setattr(convolution, "LAID_OUT_BYTES", 4 * 4 * size[0] * size[1] * 3 * sum(channels))
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (6, *size, channels[0]))
    kernel = jax.random.normal(keys[1], (side, side, *channels)) / (side * channels[0]**0.5)
    padding = [(side // 2, side // 2) if pad is None else (pad, pad)] * 2

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding,
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    truth, theirs = jax.vjp(plain, x, kernel)
    out, ours = jax.vjp(lambda x, k: convolution.conv(x, k, stride, pad), x, kernel)
    close(out, truth)
    g = jax.random.normal(keys[2], truth.shape)
    close(ours(g), theirs(g))


def test_max_pool_leaves_an_odd_row_out():
    x = jnp.arange(2 * 5 * 7 * 1.0).reshape(2, 5, 7, 1)
    np.testing.assert_array_equal(max_pool_2x2(x), nnx.max_pool(x, (2, 2), strides=(2, 2)))


@pytest.mark.parametrize("size", [(7, 9), (8, 6)])
def test_the_pooling_of_other_platforms_has_the_gradient_of_the_cpus(size):
    """A GPU's also of equals, of which round numbers hold many; a TPU gives the first of them all."""
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    g = jax.random.normal(jax.random.key(1), (2, size[0] // 2, size[1] // 2, 3))
    for other, of in ((pooling._of_partners, x.round(0)), (pooling._of_windows, x)):
        ours, theirs = (jax.jit(lambda x, f=f: jax.vjp(f, x)[1](g)[0])(of) for f in (other, pooling._of_slices))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_convolution_of_few_channels_multiplied_out():
    x, kernel = jax.random.normal(jax.random.key(0), (2, 5, 6, 2)), jax.random.normal(jax.random.key(1), (1, 1, 2, 3))
    close(jax.jit(convolution._multiplied_out)(x, kernel), convolution.conv(x, kernel))


def test_the_lstm_is_two_of_nnx():
    """Outputs, final states and gradients, on sequences of several lengths."""
    def theirs(rngs):
        return nnx.Bidirectional(*(nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs), return_carry=True, rngs=False)
                                   for _ in range(2)), return_carry=True, rngs=False)

    graph, params = nnx.split(BidirectionalLSTM(3, 4, nnx.Rngs(0)))
    other = nnx.graphdef(theirs(nnx.Rngs(0)))
    x, lengths = jax.random.normal(jax.random.key(0), (3, 5, 3)), jnp.array([5, 1, 3])
    real, zero = (jnp.arange(5) < lengths[:, None])[..., None], jnp.zeros((3, 4))

    def of_nnx(params, x):
        (forward, backward), outputs = nnx.merge(other, params)(x, initial_carry=((zero, zero), (zero, zero)),
                                                                seq_lengths=lengths)
        return outputs * real, jnp.concatenate([forward[1], backward[1]], axis=-1)

    def of_ours(params, x):
        outputs, final = nnx.merge(graph, params)(x, lengths)
        return outputs * real, final

    truth, back = jax.vjp(jax.jit(of_nnx), params, x)
    found, ours_back = jax.vjp(jax.jit(of_ours), params, x)
    close(found, truth)
    close(ours_back(truth), back(truth))


def test_too_many_blocks_are_refused():
    with pytest.raises(ValueError, match="at most 6"):
        network_shapes(dataclasses.replace(TINY, blocks=7))
