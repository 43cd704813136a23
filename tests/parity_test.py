"""Our networks in PyTorch's numbers: outputs, losses and every gradient.

NVlabs' own network is read where it is kept beside the checkout. Two tiny ones are committed
(`fixtures/make_parity.py`): what made them meets NVlabs' numbers too.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cardiojax.nets.draws import rngs_of
from cardiojax.nets.gaugan import Discriminator, Generator
from cardiojax.nets.sfera import Sfera
from cardiojax.nets.spade import power_iteration
from cardiojax.port import spade as port
from cardiojax.train import losses

FIXTURES = Path(__file__).parent / "fixtures"


def below(given, prefix):
    return {k.removeprefix(prefix): given[k] for k in given.files if k.startswith(prefix)}


def assert_near(found, given, name):
    """Of a sampled array the same entries are looked at. Gradients to 2e-5 of their tensor's largest; where they are
    sampled, so are the networks of one or two channels, in which rounding weighs more: 5e-5."""
    truth, relative = given[name], 5e-5 if "norms/gradG" in given.files else 2e-5
    if truth.shape != found.shape:
        found = np.asarray(found).reshape(-1)[::max(1, found.size // 100)]
    atol = 1e-5
    if "/grad" in name and (largest := np.abs(truth).max()) > 1e-6:
        atol = relative * largest
    np.testing.assert_allclose(found, truth, atol=atol, rtol=0 if "/grad" in name else 1e-7, err_msg=name)


def gradient_of_generator(g, d, maps, labels, image):
    """One G step's fake, losses and gradients, all in training mode."""
    graph, params, rest = nnx.split(g, nnx.Param, ...)

    @jax.jit
    def gradient(params, d):
        power_iteration(d)

        def loss(params):
            net = nnx.merge(graph, params, rest, copy=True)
            power_iteration(net)                 # inside, as training does: u and v are constants all the same
            fake = net(maps, train=True)
            on_fake, on_real = d(labels, fake), d(labels, image)
            parts = losses.hinge_generator(on_fake), 10 * losses.feature_matching(on_fake, on_real)
            return sum(parts), (fake, *parts)
        return jax.grad(loss, has_aux=True)(params)

    gradients, (fake, *parts) = gradient(params, nnx.clone(d))
    return port.to_nvlabs(nnx.merge(graph, gradients, rest)), fake, parts


def gradient_of_discriminator(d, labels, fake, image):
    graph, params, rest = nnx.split(d, nnx.Param, ...)

    @jax.jit
    def gradient(params):
        def loss(params):
            net = nnx.merge(graph, params, rest, copy=True)
            power_iteration(net)
            return losses.hinge_discriminator(net(labels, image), net(labels, fake))
        return jax.value_and_grad(loss)(params)

    value, gradients = gradient(params)
    return port.to_nvlabs(nnx.merge(graph, gradients, rest)), value


@pytest.mark.slow
@pytest.mark.parametrize("which", ["tiny", pytest.param("nvlabs", marks=pytest.mark.shared)])
def test_gaugan_is_nvlabs(which, request):
    if which == "nvlabs":
        given = np.load(request.getfixturevalue("shared") / "parity" / "spade_ngf2_64.npz")
        widths, image = {"ngf": 2}, given["image"]
        d = Discriminator(ndf=4, rngs=rngs_of(jax.random.key(0)))
    else:
        given = np.load(FIXTURES / "spade.npz")
        widths, image = {"ngf": 1, "hidden": 4}, given["image"] / np.float32(127.5) - 1
        d = Discriminator(ndf=2, rngs=rngs_of(jax.random.key(0)))
    g = Generator(size_px=64, **widths, rngs=rngs_of(jax.random.key(0)))
    port.fill(g, below(given, "G/"))
    port.fill(d, below(given, "D/"))
    labels, image = jnp.asarray(given["label"][:, 0].astype(int)), jnp.asarray(image.transpose(0, 2, 3, 1))
    maps = jax.jit(g.label_maps)(labels)
    table = maps[64].table
    assert int(table.count) <= len(table.patches)          # γ and β are looked up, as users have it by default

    fake = nnx.jit(lambda g: g(maps))(g)
    assert_near(fake.transpose(0, 3, 1, 2), given, "eval/fake")
    features = nnx.jit(lambda d: (d(labels, fake), d(labels, image)))(d)
    for name, scales in zip(("fake", "real"), features, strict=True):
        for i, scale in enumerate(scales):
            for j, x in enumerate(scale):
                assert_near(x.transpose(0, 3, 1, 2), given, f"eval/D{i}_{j}_{name}")

    gradients, made, parts = gradient_of_generator(g, d, maps, labels, image)
    assert_near(made.transpose(0, 3, 1, 2), given, "train/fake")
    np.testing.assert_allclose(parts, [given["train/G_GAN"][0], given["train/G_GAN_Feat"][0]], rtol=1e-5)
    assert_all(gradients, given, "G")
    if which == "tiny":
        gradients, value = gradient_of_discriminator(d, labels, fake, image)
        np.testing.assert_allclose(value, given["train/D"][0], rtol=1e-5)
        assert_all(gradients, given, "D")


def assert_all(gradients, given, net):
    """Every gradient; of those that were sampled also the norm of the whole."""
    names = list(below(given, f"train/grad{net}/"))
    assert len(names) == {"G": 144, "D": 14}[net]
    for name in names:
        assert_near(gradients[name], given, f"train/grad{net}/{name}")
    if f"norms/grad{net}" in given.files:
        norms = [np.linalg.norm(gradients[name]) for name in names]
        np.testing.assert_allclose(norms, given[f"norms/grad{net}"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_sfera_is_its_twin():
    """Volumes and areas of stacks of unequal length, evaluated and trained on; the loss and every gradient."""
    given = np.load(FIXTURES / "sfera.npz")
    net = Sfera(size_px=20, width=2, blocks=2, spatial_features=6, lstm_features=5, readout="sum", dropout=0.0,
                dtype=jnp.float32, rngs=rngs_of(jax.random.key(0)))
    variables = port.leaves(net)
    arrays = {**below(given, "params/"), **below(given, "stats/")}
    assert set(arrays) == set(variables)
    for path, variable in variables.items():
        assert variable.shape == arrays[path].shape
        variable[...] = jnp.asarray(arrays[path], jnp.float32)
    frames, n_slices = jnp.asarray(given["frames"] / np.float32(255)), jnp.asarray(given["n_slices"])
    out = nnx.jit(lambda net: net(frames, n_slices))(net)
    assert_near(out.volumes, given, "eval/volumes")
    assert_near(out.areas, given, "eval/areas")
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    real = jnp.broadcast_to(jnp.arange(5)[:, None] < n_slices[:, None, None], (3, 5, 2)) * 1.0

    @jax.jit
    def gradient(params):
        def loss(params):
            out = nnx.merge(graph, params, rest, copy=True)(frames, n_slices, train=True)
            total = (losses.masked_rmse(out.volumes, jnp.asarray(given["volumes"]), jnp.ones((3, 2)))
                     + losses.masked_rmse(out.areas, jnp.asarray(given["areas"]), real))
            return total, out
        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, out), gradients = gradient(params)
    assert_near(out.volumes, given, "train/volumes")
    assert_near(out.areas, given, "train/areas")
    assert float(value) == pytest.approx(float(given["train/loss"]), rel=1e-5)
    gradients = port.leaves(nnx.merge(graph, gradients, rest))
    for path, truth in below(given, "gradients/").items():
        np.testing.assert_allclose(gradients[path][...], truth, atol=2e-5 * np.abs(truth).max(), err_msg=path)


@pytest.mark.shared
def test_the_fixtures_maker_meets_nvlabs(shared):
    """The twin, with NVlabs' weights: every number that NVlabs' network gave."""
    torch = pytest.importorskip("torch")
    from cardiojax.bench.twins import spade_torch
    from tests.fixtures.make_parity import spade_numbers

    given = np.load(shared / "parity" / "spade_ngf2_64.npz")
    g, d = spade_torch.Generator(ngf=2), spade_torch.Discriminator(ndf=4)
    for net, prefix in ((g, "G/"), (d, "D/")):
        net.load_state_dict({k: torch.tensor(v) for k, v in below(given, prefix).items()}, strict=False)
    found = spade_numbers(g, d, given["label"], given["image"])
    recorded = [k for k in given.files if k.startswith(("eval/", "train/"))]
    assert len(recorded) > 150
    for name in recorded:
        assert_near(found[name], given, name)


@pytest.mark.parametrize("net", ["spade", "sfera"])
def test_the_fixtures_are_what_makes_them(net):
    pytest.importorskip("torch")
    from tests.fixtures import make_parity

    given, made = np.load(FIXTURES / f"{net}.npz"), getattr(make_parity, net)()
    assert set(given.files) == set(made)
    for name in given.files:
        largest = np.abs(given[name]).max()     # of a bias before a normalisation the gradient is rounding alone
        np.testing.assert_allclose(made[name], given[name], rtol=1e-3, atol=1e-3 * largest if largest > 1e-6 else 1e-6,
                                   err_msg=name)
