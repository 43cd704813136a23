"""Measurements: who is compared with whom, what a row says; what a program sends."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cardiojax.bench import measure, ours, workloads
from cardiojax.cli import bench as bench_cli
from cardiojax.cli.main import main
from cardiojax.config import CONTOURS_PRESETS, GAUGAN_PRESETS, SFERA_PRESETS
from cardiojax.models.gaugan import GauganModel, build_discriminator, build_generator
from cardiojax.models.looks import new_networks as new_contours
from cardiojax.models.sfera import SferaModel
from cardiojax.models.sfera import new_network as new_sfera
from cardiojax.nets.draws import rngs_of
from cardiojax.ops.collectives import collectives
from cardiojax.ops.flops import flops


class Timed(measure.Side):
    """A side whose seconds are given."""

    def __init__(self, spec, seconds):
        self.spec, self.seconds, self.peak_memory_bytes = spec, seconds, 2**30
        self.about = {"things": 8, "unit": "images", "flops": 1e12, "device": "NVIDIA H100 80GB HBM3"}


def test_ratios_are_of_medians_and_the_best_of_each_side():
    spec = workloads.Spec("train")
    sides = [Timed(spec, [1.0, 2.0, 9.0]), Timed(dataclasses.replace(spec, dtype="bfloat16"), [1.0]),
             Timed(dataclasses.replace(spec, impl="torch"), [5.0]),
             Timed(dataclasses.replace(spec, impl="torch", dtype="bfloat16", compiled=True), [3.0])]
    assert measure.ratios(sides) == {"ratio_to_peer": 3.0, "ratio_float32": 2.5}
    assert measure.ratios(sides[:1]) == {"ratio_to_peer": None, "ratio_float32": None}
    rows = {r["what"]: r for r in sides[0].rows()}
    assert rows["train gaugan"]["value"] == 4.0                   # 8 images in 2 s
    assert rows["train gaugan"]["unit"] == "images/s"
    assert rows["train gaugan FLOP/s"]["value"] == 0.5
    assert rows["train gaugan share of peak FLOP/s"]["value"] == pytest.approx(0.5e12 / 495e12, rel=1e-3)
    assert next(sides[3].rows())["impl"] == "torch compiled"


def test_the_share_of_input_is_what_the_step_alone_does_not_take():
    """Ten steps of 8 images in 5 s, a step alone in 0.4 s."""
    loop, step = Timed(workloads.Spec("loop"), [5.0, 5.0, 7.0]), Timed(workloads.Spec("train"), [0.4])
    loop.about |= {"things": 80}
    assert measure.input_shares([loop, step]) == {"input_share": {"float32": 0.2}}
    assert measure.input_shares([step]) == {}


def test_what_is_measured_is_what_was_asked_for():
    """The named studies, also on several devices; all devices where they are asked for."""
    given = {"task": "sfera", "preset": "tiny", "data": "acdc:train", "json": Path("x")}
    scaling = bench_cli.specs_of(bench_cli.Bench(what="scaling", **given), devices=6)
    assert [(s.data, s.devices, s.batch) for s in scaling] == [("acdc:train", n, 8 * n) for n in (1, 2, 4)]
    steps = [bench_cli.specs_of(bench_cli.Bench(what="train", devices=n, **given), devices=4) for n in (1, 2, 0)]
    assert [spec.devices for spec, in steps] == [1, 2, 4]
    sizes = bench_cli.specs_of(bench_cli.Bench(what="predict", batch=(1, 8, 64), **given), devices=4)
    assert [(spec.batch, spec.devices) for spec in sizes] == [(1, 1), (8, 1), (64, 1)]
    loop = bench_cli.specs_of(bench_cli.Bench(what="loop", resident=True, **given), devices=1)
    assert [(spec.what, spec.resident) for spec in loop] == [("loop", True), ("train", False)]


@pytest.mark.parametrize("what", ["predict", "generate"])
def test_the_methods_that_people_call_are_measured(what, monkeypatch):
    """From studies to predictions, from NumPy masks to NumPy images."""
    seen = []
    for owner, name in ((SferaModel, "predictions"), (GauganModel, "generate")):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda self, *given, method=method, name=name, **more: (
            seen.append(name), method(self, *given, **more))[1])
    measured = ours.ours(workloads.Spec(what, task="sfera", preset="tiny", batch=2, whole=True))
    measured.call()
    assert seen == [{"predict": "predictions", "generate": "generate"}[what]]
    assert (measured.things, measured.unit) == (2, {"predict": "studies", "generate": "images"}[what])


def test_collectives_of_a_program():
    hlo = """
  %a = f32[2,3]{1,0} all-reduce(%x), replica_groups={}
  %b = (f32[10]{0}, /*index=1*/bf16[4]{0}) all-reduce-start(%y, %z), channel_id=1
  %s = ((f32[100]{0}), f32[100]{0}) all-reduce-start(%v), channel_id=2
  %t = ((f32[1]{0}, bf16[2]{0}), (f32[1]{0}, bf16[2]{0})) all-reduce-start(%v, %w), channel_id=3
  %c = u8[7]{0} all-gather(%w), dimensions={0}
  %d = f32[5]{0} add(%all-reduce, %x)
"""
    assert collectives(hlo) == {"all-reduce": {"count": 4, "bytes": 24 + 48 + 400 + 8},
                                "all-gather": {"count": 1, "bytes": 7}}


def test_flops_by_hand_and_as_the_compiler_counts():
    """A GPU's compiler counts no convolution; on CPU, where it does, the count from shapes is the compiler's."""
    def f(x, kernel, w):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y.reshape(2, -1) @ w

    shapes = jnp.ones((2, 6, 6, 3)), jnp.ones((3, 3, 3, 5)), jnp.ones((80, 7))
    traced = jax.jit(f).trace(*shapes)
    assert flops(traced.jaxpr, "cpu") == 2 * (2 * 4 * 4 * 5) * 27 + 2 * 2 * 80 * 7
    assert flops(traced.jaxpr, "cpu") == pytest.approx(traced.lower().compile().cost_analysis()["flops"], rel=0.01)

    x = jnp.ones((4, 4))
    times = {"scan": lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=3)[0],
             "cpu": lambda x: jax.lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: x @ x @ x),
             "gradient": lambda x: jax.vjp(lambda x: (x @ x).sum(), x)[1](1.0)[0],      # the value itself is dropped
             "fallback": lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)}
    count = {name: flops(jax.jit(f).trace(x).jaxpr, "cpu") / (2 * 4**3) for name, f in times.items()}
    assert count == {"scan": 3, "cpu": 1, "gradient": 2, "fallback": 1}
    assert flops(jax.jit(times["cpu"]).trace(x).jaxpr, "cuda") == 2 * 2 * 4**3


def sfera_loss():
    graph, params, stats = new_sfera(SFERA_PRESETS["tiny"].net, jax.random.key(0))
    frames, n_slices = jnp.zeros((2, 6, 75, 75, 2)), jnp.array([6, 5])

    def loss(params):
        out = nnx.merge(graph, params, stats, copy=True)(frames, n_slices, train=True)
        return (out.volumes ** 2).sum() + (out.areas ** 2).sum()
    return loss, params


def contours_loss():
    graph, params, stats = new_contours(CONTOURS_PRESETS["tiny"].net, jax.random.key(0))
    frames, weight = jnp.zeros((2, 64, 64, 1)), jnp.ones(2)

    def loss(params):
        return (nnx.merge(graph, params, stats, copy=True)["coarse"](frames, weight, train=True) ** 2).sum()
    return loss, params


def gaugan_loss():
    net = dataclasses.replace(GAUGAN_PRESETS["tiny"].net, hidden=8)
    rngs = rngs_of(jax.random.key(0))
    networks = nnx.List([build_generator(net, rngs), build_discriminator(net, rngs)])
    graph, params, rest = nnx.split(networks, nnx.Param, ...)
    labels = jnp.zeros((2, 80, 80), jnp.int32)

    def loss(params):
        painter, critic = nnx.merge(graph, params, rest, copy=True)
        fake = painter(painter.label_maps(labels, {}), train=True)
        return sum((scale[-1] ** 2).sum() for scale in critic(labels, fake))
    return loss, params


@pytest.mark.parametrize("network", [sfera_loss, contours_loss, gaugan_loss])
def test_flops_of_networks_are_what_the_compiler_counts(network):
    """Forward and back, before it optimises. Ours alone has the products with the border of zeros, which are done, a
    tenth of maps that end at 5 pixels; the compiler's alone has sums."""
    loss, params = network()
    for f in (loss, jax.grad(loss)):
        traced = jax.jit(f).trace(params)
        assert 0.8 < traced.lower().cost_analysis()["flops"] / flops(traced.jaxpr, "cpu") < 1.1


@pytest.mark.slow
def test_bench_from_the_command_line(phantom_data, tmp_path, capsys):
    assert main(["bench", "input", "--task", "sfera", "--preset", "tiny", "--data", "phantom/dsb_like:train",
                 "--data-dir", str(phantom_data), "--rounds", "2", "--json", str(tmp_path / "input.json")]) == 0
    found = json.loads((tmp_path / "input.json").read_text())
    assert {row["unit"] for row in found["rows"]} == {"studies/s", "ms", "GiB"}
    assert all(row["value"] > 0 for row in found["rows"])
    assert found["ratio_to_peer"] is None
    assert "studies/s" in capsys.readouterr().out
    assert main(["bench", "input", "--peer", "torch", "--json", str(tmp_path / "x.json")]) == 2
    assert main(["bench", "train", "--task", "sfera", "--resident", "--json", str(tmp_path / "x.json")]) == 2
    assert "bench loop" in capsys.readouterr().err
    words = ["bench", "scaling", "--task", "contours", "--preset", "paper"]
    assert main([*words, "--json", str(tmp_path / "x.json")]) == 2
    assert "no contours" in capsys.readouterr().err
    for wrong in (["scaling", "--peer", "torch"], ["train", "--whole"], ["predict", "--whole", "--peer", "torch"],
                  ["loop", "--batch", "1", "2"], ["predict", "--batch", "1", "2", "--peer", "torch"],
                  ["predict", "--devices", "2"], ["train", "--devices", "99"],
                  ["train", "--devices", "0", "--batch", "3"]):
        assert main(["bench", *wrong, "--json", str(tmp_path / "x.json")]) == 2
    assert main(["bench", "predict", "--data", "nothing:train", "--json", str(tmp_path / "x.json")]) == 2
    assert "cannot be measured" in capsys.readouterr().err
