"""SPADE, GauGAN and its losses (NVlabs' numbers: `parity_test`): looked up = dense, sizes, companions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cardiojax.errors import InputError
from cardiojax.nets.draws import rngs_of
from cardiojax.nets.gaugan import Discriminator, Encoder, Generator, halved
from cardiojax.nets.spade import Spade, SpectralConv, label_map, power_iteration
from cardiojax.ops.lookup import lookup, modulated
from cardiojax.ops.neighbourhoods import Weights, dense, modulation, neighbourhoods
from cardiojax.train import losses


def hearts(n=2, side=64):
    """Discs of LV in myocardium, and a bar of RV, moved a little from one mask to the next."""
    y, x = np.mgrid[:side, :side]
    masks = np.zeros((n, side, side), int)
    for i in range(n):
        r = np.hypot(y - side / 2 - i, x - side / 2 + 2 * i)
        masks[i][(x > 3 * side // 4) & (abs(y - side / 2) < 6 + i)] = 3
        masks[i][r < side / 4] = 2
        masks[i][r < side / 6] = 1
    return jnp.asarray(masks)


# compiled whole: many small programs take longer
table_of = jax.jit(neighbourhoods, static_argnums=1)


def with_gradients(function, g, *given):
    """function(*given), and the gradients of its product with g."""
    @jax.jit
    def both(g, *given):
        out, back = jax.vjp(function, *given)
        return out, back(g)
    return both(g, *given)


def numbers(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


WEIGHTS = (3, 3, 4, 5), (5,), (3, 3, 5, 6), (6,)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_modulation_looked_up_is_the_dense_one(noisy):
    """γ|β and their gradients; on noise there are too many neighbourhoods, and the dense way is taken."""
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 4, (2, 32, 32))) if noisy else hearts(side=32)
    where = table_of(labels, 4)
    assert (int(where.count) > len(where.patches)) == noisy
    *parts, g = numbers(*WEIGHTS, (2, 32, 32, 6))
    weights = Weights(*parts)
    ours, (slopes,) = with_gradients(lambda w: modulation(where, labels, w), g, weights)
    truth, (true_slopes,) = with_gradients(lambda w: dense(labels, w), g, weights)
    np.testing.assert_allclose(ours, truth, atol=1e-4)
    for a, b in zip(slopes, true_slopes, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * float(np.abs(b).max()))


def test_the_modulation_of_a_fixed_table_is_the_dense_one():
    """Images, and gradients of the input and of the weights; with a row too few all is NaN."""
    labels = hearts(side=32)
    count = int(table_of(labels, 4).count)
    *parts, x, g = numbers(*WEIGHTS, *2 * [(*labels.shape, 3)])
    weights = Weights(*parts)

    def densely(x, weights):
        gamma, beta = jnp.split(dense(labels, weights), 2, axis=-1)
        return x * (1 + gamma) + beta

    def by_rows(rows):
        return jax.jit(lambda x, w: modulated(x, lookup(labels, 4, rows), w))

    truth, true_slopes = with_gradients(densely, g, x, weights)
    for rows in (count, count + 1, 2 * count):
        ours, slopes = with_gradients(by_rows(rows), g, x, weights)
        np.testing.assert_allclose(ours, truth, atol=1e-4)
        for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(true_slopes), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 * float(np.abs(b).max()))
    assert np.isnan(by_rows(count - 1)(x, weights)).all()
    text = by_rows(count).trace(x, weights).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.sort" in text
    assert not {"stablehlo.while", "stablehlo.case", "stablehlo.if"} & set(text.split())    # nothing asks the host


def gradient_of_modulation(weights, labels, g):
    return jax.grad(lambda w: (modulation(neighbourhoods(labels, 4), labels, w) * g).sum())(weights)


def test_a_table_is_made_for_cpu_alone():
    """Elsewhere the program holds neither the sort that makes a table nor the loops that fill and add one up."""
    weights = Weights(jnp.zeros((3, 3, 4, 5)), jnp.zeros(5), jnp.zeros((3, 3, 5, 6)), jnp.zeros(6))
    traced = jax.jit(gradient_of_modulation).trace(weights, hearts(1, 32), jnp.zeros((1, 32, 32, 6)))
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        for what in ("stablehlo.sort", "stablehlo.while", "stablehlo.scatter"):
            assert (what in text) == (platform == "cpu"), (platform, what)


def test_the_modulation_looked_up_on_eight_devices():
    """Sharded under jit, and replica by replica under pmap: the gradients of one device."""
    labels = hearts(8, 32)
    *parts, g = numbers(*WEIGHTS, (8, 32, 32, 6))
    weights = Weights(*parts)
    truth = jax.jit(gradient_of_modulation)(weights, labels, g)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = jax.jit(gradient_of_modulation)(weights, *jax.device_put((labels, g), split))
    replicas = jax.pmap(gradient_of_modulation, in_axes=(None, 0, 0))(weights, labels[:, None], g[:, None])
    for a, b, c in zip(truth, sharded, replicas, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-4 * float(jnp.abs(a).max()))
        np.testing.assert_allclose(c.sum(0), a, atol=2e-4 * float(jnp.abs(a).max()))


def test_distinct_neighbourhoods_by_hand():
    """On one label they differ only by how near the border is: 0, 1 or more pixels, on two axes: 5 × 5."""
    where = table_of(jnp.zeros((3, 16, 16), int), 4)
    assert int(where.count) == 25
    rebuilt = np.asarray(where.patches)[where.index]
    assert (rebuilt[:, 2:-2, 2:-2] == 0).all()
    assert (rebuilt[:, 0, :, :2] == -1).all()                  # two rows above the first are outside
    np.testing.assert_array_equal(rebuilt[..., 2, 2], np.zeros((3, 16, 16)))
    busy = hearts(side=32)
    where = table_of(busy, 4)
    np.testing.assert_array_equal(np.asarray(where.patches)[where.index][..., 2, 2], busy)


def test_a_generator_of_many_labels():
    """36 labels take more words to pack; the maps are still exact."""
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 36, (1, 4, 4)).repeat(16, 1).repeat(16, 2))
    where = table_of(labels, 36)
    assert int(where.count) <= len(where.patches)
    padded = np.pad(np.asarray(labels), ((0, 0), (2, 2), (2, 2)), constant_values=-1)
    truth = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    np.testing.assert_array_equal(np.asarray(where.patches)[where.index], truth)


def test_label_maps_take_the_top_left_pixel():
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 4, (1, 16, 16)))
    np.testing.assert_array_equal(label_map(labels, 4, 4).labels, labels[:, ::4, ::4])


@pytest.mark.parametrize(("mode", "step"), [("few", 16), ("normal", 32), ("more", 64), ("most", 128)])
def test_sizes(mode, step):
    def build(size_px):
        return Generator(size_px=size_px, ngf=2, hidden=4, channels=3, upsamplings=mode, rngs=nnx.Rngs(0))

    for wrong in (0, step // 2, step + 1):
        with pytest.raises(InputError, match=f"multiples of {step} pixels"):
            build(wrong)
    out = jax.eval_shape(lambda m: (g := build(step))(g.label_maps(m)), jnp.zeros((2, step, step), int))
    assert out.shape == (2, step, step, 3)


def test_parameter_counts_of_the_paper():
    """NVlabs' network with 4 labels and 1 channel, counted there."""
    def count(build):
        return sum(x.size for x in jax.tree.leaves(nnx.state(nnx.eval_shape(build), nnx.Param)))

    assert count(lambda: Generator(size_px=160, rngs=nnx.Rngs(0))) == 92_088_385
    assert count(lambda: Discriminator(rngs=nnx.Rngs(0))) == 5_531_778


@pytest.fixture(scope="module")
def small():
    """A generator whose statistics have moved, so that evaluation is not training."""
    g = Generator(size_px=32, ngf=2, hidden=4, upsamplings="few", rngs=rngs_of(jax.random.key(0)))

    @nnx.jit
    def once(g):
        g(g.label_maps(hearts(4, 32)), train=True)

    once(g)
    return g


def test_an_image_does_not_depend_on_its_companions(small):
    masks = hearts(3, 32)
    images = nnx.jit(lambda g, masks: g(g.label_maps(masks)))
    together, alone = images(small, masks), images(small, masks[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)
    assert float(jnp.abs(together[0] - together[2]).max()) > 1e-6


def test_training_uses_and_moves_the_statistics(small):
    """By hand: momentum 0.1, the mean of the batch, and its variance with n − 1."""
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3)) * 2 + 1
    spade = Spade(3, 4, 5, "syncbatch", jnp.float32, rngs_of(jax.random.key(0)))
    out = spade.normalised(x, True, None)
    flat = np.asarray(x).reshape(-1, 3)
    np.testing.assert_allclose(np.asarray(out).reshape(-1, 3), (flat - flat.mean(0)) / flat.std(0), atol=1e-4)
    np.testing.assert_allclose(spade.mean[...], 0.1 * flat.mean(0), atol=1e-6)
    np.testing.assert_allclose(spade.variance[...], 0.9 + 0.1 * flat.var(0, ddof=1), atol=1e-5)
    instance = Spade(3, 4, 5, "instance", jnp.float32, rngs_of(jax.random.key(0))).normalised(x, True, None)
    np.testing.assert_allclose(instance.mean((1, 2)), 0, atol=1e-6)


def test_spectral_norm_finds_the_largest_singular_value():
    conv = SpectralConv(3, 5, 3, jnp.float32, rngs_of(jax.random.key(0)), spectral=True, bias=False)
    iterate = nnx.jit(power_iteration)
    for _ in range(200):
        iterate(conv)
    matrix = np.asarray(conv.kernel[...]).reshape(-1, 5)
    sigma = float(conv.v[...] @ matrix @ conv.u[...])
    assert sigma == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=1e-4)
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 3))
    plain = SpectralConv(3, 5, 3, jnp.float32, rngs_of(jax.random.key(0)), bias=False)
    plain.kernel[...] = conv.kernel[...] / sigma
    convolved = nnx.jit(lambda conv: conv(x))
    np.testing.assert_allclose(convolved(conv), convolved(plain), atol=1e-5)


def test_halving_counts_only_pixels_inside():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(halved(x)[0, :, :, 0], [[(0 + 1 + 4 + 5) / 4, (1 + 2 + 3 + 5 + 6 + 7) / 6],
                                                       [(4 + 5 + 8 + 9 + 12 + 13) / 6, (5 + 6 + 7 + 9 + 10 + 11
                                                                                       + 13 + 14 + 15) / 9]])


@pytest.mark.parametrize("size_px", [16, 80, 112])
def test_the_style_encoder_works_at_any_allowed_size(size_px):
    encoder = Encoder(size_px, 1, 2, jnp.float32, rngs_of(jax.random.key(0)))
    images, = numbers((2, size_px, size_px, 1))
    mean, log_variance = nnx.jit(lambda encoder: encoder(images))(encoder)
    assert mean.shape == log_variance.shape == (2, 256)


def test_a_style_changes_the_image():
    g = Generator(size_px=16, ngf=2, hidden=4, upsamplings="few", style=True, rngs=rngs_of(jax.random.key(0)))
    images = nnx.jit(lambda g, style: g(g.label_maps(hearts(2, 16)), style=style))
    styles, = numbers((2, 256))
    assert float(jnp.abs(images(g, styles) - images(g, 0 * styles)).max()) > 1e-4


def test_losses_by_hand():
    """Two scales of one inner layer and scores."""
    def features(inner, scores):
        return [[jnp.full((1, 2, 2, 1), i), jnp.asarray(s)] for i, s in zip(inner, scores, strict=True)]

    real = features([1.0, 2.0], [[2.0, 0.0], [1.0]])
    fake = features([0.5, 4.0], [[-3.0, 0.5], [1.0]])
    # scale 0: real (0 + 1) / 2, fake (0 + 1.5) / 2; scale 1: real 0, fake 2
    assert float(losses.hinge_discriminator(real, fake)) == pytest.approx(((0.5 + 0.75) + (0 + 2)) / 2)
    assert float(losses.hinge_generator(fake)) == pytest.approx((1.25 - 1.0) / 2)
    assert float(losses.feature_matching(fake, real)) == pytest.approx((0.5 + 2.0) / 2)
    assert float(losses.perceptual([jnp.ones(2)] * 5, [jnp.zeros(2)] * 5)) == pytest.approx(1 / 32 + 1 / 16 + 1 / 8
                                                                                          + 1 / 4 + 1)
    mean, log_variance = jnp.asarray([[1.0, 0.0], [0.0, 0.0]]), jnp.asarray([[0.0, np.log(2.0)], [0.0, 0.0]])
    assert float(losses.kl_divergence(mean, log_variance)) == pytest.approx(0.5 + -0.5 * (1 + np.log(2) - 2))


def test_matching_is_not_matched_from_the_real_side():
    """The real side is detached in both feature losses."""
    x = jnp.full((1, 2, 2, 1), 2.0)
    assert float(jax.grad(lambda r: losses.feature_matching([[x, x]], [[r, r]]))(x * 3).sum()) == 0
    assert float(jax.grad(lambda r: losses.perceptual([x], [r]))(x * 3).sum()) == 0
