"""What one G + D step of the GauGAN preset `large` costs, by the compiler's own analysis, and one real step of it.

    python benchmarks/gaugan_cost.py --json benchmarks/results/gaugan_cost.json [--vgg16 FILE]

Nothing is allocated for the analysis: state, batch and VGG19's weights are abstract. With ported VGG16 weights, one
step of batch 1 is taken for real.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cardiojax.config import GAUGAN_PRESETS, GauganConfig
from cardiojax.data.frames import FrameBatch
from cardiojax.models import perceptual
from cardiojax.nets import vgg
from cardiojax.provenance import commit
from cardiojax.train.gaugan import GauganTask


class OneFrame:
    """Stands for a dataset where only shapes are asked for."""

    labels = (0, 1, 2, 3)

    def examples(self, count: int, size_px: int) -> FrameBatch:
        return FrameBatch(*np.zeros((2, 1, size_px, size_px), np.uint8))


def task_of(config: GauganConfig, weights) -> GauganTask:
    return GauganTask(config, OneFrame(), OneFrame(), perceptual.VggFeatures(weights, config.imagenet, jnp.float32))


def analysed(config: GauganConfig) -> dict:
    """GiB and TFLOP of one step, compiled for the device at hand."""
    weights = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in vgg.shapes("vgg19").items()}
    task = task_of(config, weights)
    state = jax.eval_shape(task.init, jax.random.key(0))
    side = config.net.size_px
    batch = FrameBatch(*[jax.ShapeDtypeStruct((config.batch, side, side), jnp.uint8)] * 2)
    began = time.perf_counter()
    lowered = jax.jit(task.step, donate_argnums=0).lower(state, batch, jax.random.key(0), task.constants)
    compiled = lowered.compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    count = {k: sum(x.size for x in jax.tree.leaves(getattr(state, k))) for k in ("generator", "discriminator")}
    return {"parameters": count, "compile_s": round(time.perf_counter() - began, 1),
            "arguments_gib": memory.argument_size_in_bytes / 2**30,
            "temporaries_gib": memory.temp_size_in_bytes / 2**30, "tflop": cost.get("flops", float("nan")) / 1e12}


def stepped(config: GauganConfig, file: Path | None) -> dict:
    """One step with real weights of VGG16."""
    weights = {k: v for k, v in perceptual.read_vgg("vgg16", file).items() if k.startswith("conv")}
    task = task_of(dataclasses.replace(config, batch=1), weights)
    y, x = np.mgrid[:config.net.size_px, :config.net.size_px]
    radius = np.hypot(y - y.mean(), x - x.mean())
    mask = ((radius < 30) + (radius < 20)).astype(np.uint8)[None]
    batch = FrameBatch((120 * mask).astype(np.uint8), mask)
    state = jax.jit(task.init)(jax.random.key(0))
    step = jax.jit(task.step, donate_argnums=0)
    for _ in range(2):
        began = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch, jax.random.key(1), task.constants))
    return {"batch": 1, "seconds": time.perf_counter() - began, **{k: float(v) for k, v in metrics.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 32])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--vgg16", type=Path, help="ported weights; by default where `cardiojax port vgg` puts them")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    large = GAUGAN_PRESETS["large"]
    large = dataclasses.replace(large, net=dataclasses.replace(large.net, dtype=args.dtype))
    rows = {str(b): analysed(dataclasses.replace(large, batch=b)) for b in args.batch}
    print(json.dumps(rows, indent=2), flush=True)
    args.json.write_text(json.dumps({
        "device": jax.devices()[0].device_kind, "preset": "large", "perceptual": "vgg19 (abstract)",
        "dtype": args.dtype, "batches": rows, "step_with_vgg16": stepped(large, args.vgg16), "commit": commit()},
        indent=2))
    print(args.json.read_text())


if __name__ == "__main__":
    main()
