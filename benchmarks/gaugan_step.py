"""One G + D step (and generation) of the GauGAN against its PyTorch twin, on the same machine, in one run, alternating.

    python benchmarks/gaugan_step.py --data-dir data --json benchmarks/results/gaugan_step_cpu.json

Real masks (`cardiojax build acdc`), no perceptual network on either side. Needs PyTorch. Run it on a quiet machine.
Each side has a process of its own, which sleeps while it is not its turn: PyTorch's idle threads spin, and slow
whatever shares a process with them by a third. Both allocate huge pages, which spares both their page faults.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import torch
from peers import spade_torch

from cardiojax import data
from cardiojax.config import GAUGAN_PRESETS, Gaugan, GauganNet, Warp
from cardiojax.frames import FrameBatch, Frames
from cardiojax.generate import paint
from cardiojax.nets.gaugan import padded_px
from cardiojax.train.gaugan import GauganTask, padded
from cardiojax.train.parallel import Parallel
from cardiojax.train.run import commit

PRESETS = {"paper": dataclasses.replace(GAUGAN_PRESETS["paper"], perceptual="none"), "small": GAUGAN_PRESETS["small"]}
STILL = Warp(rotation_deg=0.0, shift_mm=0.0, scale=0.0, flip=False)


def ours(config: Gaugan, frames: Frames, batch: FrameBatch):
    """Functions that take one step and make one batch of images, and wait for them."""
    task = GauganTask(config, frames, frames)
    parallel = Parallel(task, devices=jax.devices()[:1])
    held = [parallel.place(task.init(jax.random.key(0)))]
    masks = jax.numpy.asarray(padded(batch.masks, task.size_px, "constant"))
    params, stats = (jax.tree.map(jax.numpy.copy, s) for s in (held[0].generator, held[0].generator_stats))

    def step():
        held[0], metrics = parallel.step(held[0], batch, jax.random.key(1))
        jax.block_until_ready(metrics)

    return step, lambda: jax.block_until_ready(paint(task.generator, params, stats, masks,
                                                     np.zeros((len(masks), 256), np.float32)))


def theirs(net: GauganNet, batch: FrameBatch, autocast: bool, compiled: bool):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    g = spade_torch.Generator(net.classes, net.channels, net.ngf, net.hidden, net.upsamplings)
    d = spade_torch.Discriminator(net.classes, net.channels, net.ndf)
    trainer = spade_torch.Trainer(g, d, autocast, device, compiled)
    size = padded_px(net.size_px, net.upsamplings)
    labels = torch.tensor(np.asarray(padded(batch.masks, size, "constant")), device=device).long()
    one_hot = torch.nn.functional.one_hot(labels, net.classes).permute(0, 3, 1, 2).float()
    one_hot = one_hot.contiguous(memory_format=torch.channels_last)
    images = torch.tensor(np.asarray(padded(batch.images / np.float32(127.5) - 1, size, "reflect")),
                          device=device)[:, None]

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def step():
        trainer.step(one_hot, images)
        wait()

    def paint_all():
        trainer.g.eval()
        with torch.inference_mode(), trainer.autocast:
            trainer.run_g(one_hot)
        trainer.g.train()
        wait()

    return step, paint_all


def serve(args):
    """One side: prints the seconds of each "step" or "generation" that it is asked for."""
    kind, dtype = args.serve.split()
    config = dataclasses.replace(PRESETS[args.preset], batch=args.batch, augment=STILL)
    frames = Frames(data.open_split(args.data, args.data_dir, need_volumes=False))
    batch = frames.batch(np.random.default_rng(0).choice(len(frames), args.batch, replace=False), config.net.size_px)
    if kind == "torch":
        step, paint_all = theirs(config.net, batch, dtype == "bfloat16", args.compile)
    else:
        step, paint_all = ours(dataclasses.replace(config, net=dataclasses.replace(config.net, dtype=dtype)), frames,
                               batch)
    for what in map(str.strip, sys.stdin):
        began = time.perf_counter()
        (step if what == "step" else paint_all)()
        print(time.perf_counter() - began, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--data", default="acdc:train")
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="torch.compile for the peer")
    parser.add_argument("--ours", nargs="*", default=["float32"], help="dtypes")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)
    impls = [f"cardiojax {dtype}" for dtype in args.ours] + ["torch float32", "torch bfloat16"]
    children = {name: subprocess.Popen([sys.executable, *sys.argv, "--serve", name], text=True, stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE,
                                       env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
                for name in impls}
    seconds = {what: {name: [] for name in impls} for what in ("step", "generation")}
    for turn in range(args.rounds + 1):
        for name, child in children.items():
            for what, of in seconds.items():
                print(what, file=child.stdin, flush=True)
                took = float(child.stdout.readline())
                if turn:                             # the first turn compiles and warms up
                    of[name].append(took)
                print(f"{turn} {what} {name}: {took:.2f} s", flush=True)
    for child in children.values():
        child.stdin.close()
        child.wait()
    config = PRESETS[args.preset]
    medians = {what: {name: float(np.median(s)) for name, s in by.items()} for what, by in seconds.items()}
    ratios = {what: min(s for n, s in by.items() if n.startswith("torch")) / min(
        s for n, s in by.items() if n.startswith("cardiojax")) for what, by in medians.items()}
    device = jax.devices()[0].device_kind
    args.json.write_text(json.dumps({
        "device": f"{device}, {platform.machine()}, {torch.get_num_threads()} threads", "preset": args.preset,
        "size_px": padded_px(config.net.size_px, config.net.upsamplings), "batch": args.batch, "data": args.data,
        "compiled_peer": args.compile, "jax": jax.__version__, "torch": torch.__version__, "commit": commit(),
        "median_seconds": medians, "best_peer_over_ours": ratios}, indent=2))
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
