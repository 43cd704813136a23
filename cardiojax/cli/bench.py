"""`cardiojax bench`: how fast, and beside PyTorch how much faster."""

import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Literal

import tyro

from cardiojax.errors import InputError
from cardiojax.machine import usable_cores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure throughput, time a call, FLOP/s and peak memory, each side in a process of its own, in turn, medians.

    train: a training step (--task). loop: ten steps with their input, as a training takes them, beside the step alone:
    what share of the time input takes. generate: images of masks by a GauGAN. predict: volumes of studies by SFERA, or
    by contours (--task contours); --batch 1 is the latency of one, --batch 1 8 64 that of each. input: reading and
    batching records (--data; phantom studies in memory without). scaling: the training step on 1, 2, 4 … devices, the
    batch a device staying the same.
    Run it on a quiet machine.

    train and loop also on all devices of several hosts: the same command on each, as for `train` (`srun cardiojax bench
    train …`, `cardiojax local …`, or --coordinator, --processes and --process); the first writes the result.
    """

    what: tyro.conf.Positional[Literal["train", "loop", "generate", "predict", "input", "scaling"]]
    task: Literal["gaugan", "sfera", "contours"] = "gaugan"
    """The network, for train, loop, predict, input and scaling."""
    preset: Literal["paper", "large", "small", "tiny"] = "small"
    batch: tuple[int, ...] = (0,)
    """Over all devices (for scaling: on each); 0 is the preset's. Of several each is a side, without a --peer."""
    devices: int = 1
    """Of train and loop: how many of this process's devices take a step; 0: all. Several hosts take all they have."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    """Ours to measure."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How a step is spread over the devices (train, loop, scaling)."""
    accumulate: int = 1
    """Micro-batches of a step."""
    remat: bool = False
    """Compute activations again in the backward pass."""
    spade: Literal["auto", "table", "dense"] = "auto"
    """Of a GauGAN, γ and β from a table of counted rows, or of every pixel; auto: as the machine likes it."""
    workers: int = 0
    """Threads that read records ahead, of input and loop; 0: one a core, sixteen at most."""
    keep_gib: float = 0.0
    """Of the records' arrays, kept in memory between epochs, as a training does; by default none, so that `input` is
    the rate of reading."""
    resident: bool = False
    """Of SFERA's loop: all studies lie on the device, as with `train --resident`."""
    whole: bool = False
    """Of generate and predict: the method that people call, from NumPy masks to NumPy images, from prepared studies to
    predictions. Without it the network's call alone, as a peer's is measured."""
    peer: Literal["none", "torch"] = "none"
    """torch: the same network in plain PyTorch, channels-last, in float32 and bf16 autocast (`cardiojax[torch]`)."""
    compile_peer: bool = False
    """Also measure the peer with torch.compile."""
    data: str = ""
    """NAME:SPLIT whose studies are used; phantom studies by default."""
    data_dir: Path = Path("data")
    rounds: int = 5
    """Turns of each side."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes that take each step together."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Which one this is, from 0."""
    json: Path
    """File for the result."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Bench, args=argv, prog="cardiojax bench")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")        # the sides need the memory
    import jax

    from cardiojax.bench import measure
    from cardiojax.train.hosts import join

    if args.rounds < 1 or min(args.batch, default=-1) < 0 or args.devices < 0:
        raise InputError("--rounds is 1 or more, --batch and --devices 0 or more")
    join(args.coordinator, args.processes, args.process)
    if jax.process_count() > 1:
        specs, side_of = [shared_spec(args, len(jax.devices()))], measure.Here
    else:
        specs, side_of = specs_of(args, len(jax.devices())), measure.Side
    sides = measure.measured(specs, args.rounds, said, side_of)
    if jax.process_index() == 0:
        write(args, sides)
    return 0


def said(side):
    """Each turn, by the first process."""
    import jax

    if jax.process_index() == 0:
        print(f"{side.spec.name}, batch {side.spec.config.batch}"
              f"{f', {side.spec.devices} devices' if side.spec.devices > 1 else ''}: "
              f"{1000 * side.seconds[-1]:.4g} ms", flush=True)


def write(args: Bench, sides: list):
    """--json, and the same as a table."""
    import jax

    from cardiojax.bench import measure
    from cardiojax.cli.evaluate import show
    from cardiojax.files import write_text
    from cardiojax.provenance import commit

    rows = [row for side in sides for row in side.rows()]
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.json, json.dumps({
        "device": device_name(jax.devices()[0].device_kind), "processes": jax.process_count(), "preset": args.preset,
        "data": args.data or "phantom", "rounds": args.rounds, "jax": jax.__version__, "commit": commit(),
        "rows": rows, **measure.ratios(sides), **measure.input_shares(sides)}, indent=2))
    show([["", "impl", "dtype", "devices", "batch", "value"], *(
        [r["what"], r["impl"], r["dtype"], str(r["devices"]), str(r["batch"]), f"{r['value']:.4g} {r['unit']}"]
        for r in rows)], f"preset {args.preset}")
    print(f"result: {args.json}")


def device_name(kind: str) -> str:
    """With what decides a CPU's matrix products: PyTorch's bf16 is fast with AMX and slow without."""
    if kind != "cpu":
        return kind
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return ", ".join([f"cpu, {platform.machine()}, {usable_cores()} cores",
                      *(f for f in ("avx512_bf16", "amx_bf16") if f in flags)])


def shared_spec(args: Bench, devices: int):
    """What several processes measure together, on all of their devices. Raises InputError for what they do not."""
    if args.what not in ("train", "loop") or args.peer != "none" or len(args.dtypes) * len(args.batch) != 1:
        raise InputError("several processes measure train or loop, in one of --dtypes and --batch, without a --peer")
    return specs_of(dataclasses.replace(args, devices=devices), devices)[0]


def refuse(args: Bench, count: int, devices: int):
    """Raises InputError for what is not measured. count: of the devices that are here, those that take a step."""
    if args.resident and (args.what, args.task) != ("loop", "sfera"):
        raise InputError("--resident is for `bench loop --task sfera`")
    if args.whole and args.what not in ("generate", "predict"):
        raise InputError("--whole is for generate and predict")
    if len(args.batch) > 1 and args.what == "loop":
        raise InputError("loop is measured with one --batch")
    if count > 1 and args.what not in ("train", "loop"):
        raise InputError("--devices is for train and loop")
    if count > devices:
        raise InputError(f"--devices {count}: {devices} are here")
    if args.peer != "none" and (args.what in ("input", "loop", "scaling") or args.whole or count > 1
                                or len(args.batch) > 1):
        raise InputError("a --peer is measured beside train, generate and predict, with one --batch on one device, "
                         "without --whole")
    if (args.task, args.preset) == ("contours", "paper"):
        raise InputError("the paper has no contours; --preset large, small and tiny have")


def specs_of(args: Bench, devices: int) -> list:
    """The sides of a measurement. Raises InputError for what is not measured so."""
    from cardiojax.bench.workloads import Spec
    from cardiojax.train.parallel import check_batch

    count = args.devices or devices
    refuse(args, 1 if args.what == "scaling" else count, devices)
    options = {"parallel": args.parallel, "accumulate": args.accumulate, "remat": args.remat, "spade": args.spade,
               "workers": args.workers, "keep_gib": args.keep_gib, "resident": args.resident,
               "whole": args.whole}
    if args.what == "scaling":
        counts = [n for n in (2**i for i in range(10)) if n <= devices]
        bases = [Spec("train", args.task, args.preset, batch, dtype=dtype, data=args.data,
                      data_dir=str(args.data_dir), **options) for dtype in args.dtypes for batch in args.batch]
        return [dataclasses.replace(base, devices=n, batch=n * base.config.batch) for base in bases for n in counts]
    common = {"what": args.what, "task": args.task, "preset": args.preset, "data": args.data,
              "data_dir": str(args.data_dir)}
    specs = [Spec(**common, **options, dtype=dtype, devices=count, batch=batch)
             for dtype in args.dtypes for batch in args.batch]
    for spec in specs:
        check_batch(spec.config.batch, count, spec.unit, args.accumulate)
    if args.what == "loop":
        specs += [dataclasses.replace(spec, what="train", resident=False) for spec in specs]
    if args.peer == "torch":
        specs += [Spec(**common, impl="torch", dtype=dtype, compiled=compiled, batch=batch) for batch in args.batch
                  for dtype in ("float32", "bfloat16")
                  for compiled in ((False, True) if args.compile_peer else (False,))]
    return specs
