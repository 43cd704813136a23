"""Several sides measured in turn, on one machine, in one run: medians and their ratio."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from cardiojax.bench import serve
from cardiojax.bench.workloads import Spec
from cardiojax.errors import InputError

# dense FLOP/s by device and type, as their makers say; by JAX's default float32 runs on a GPU's TF32 units and on a
# TPU's bfloat16 ones
HOPPER, AMPERE = {"bfloat16": 989e12, "float32": 495e12}, {"bfloat16": 312e12, "float32": 156e12}
PEAKS = {"NVIDIA H100 80GB HBM3": HOPPER, "NVIDIA H200": HOPPER, "NVIDIA GH200 480GB": HOPPER,
         **dict.fromkeys(("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB", "NVIDIA A100 80GB PCIe",
                          "NVIDIA A100-PCIE-40GB"), AMPERE),
         **{chip: dict.fromkeys(("bfloat16", "float32"), peak) for chip, peak in (
             ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v6 lite", 918e12))}}


@dataclasses.dataclass
class Side:
    """A child process, stopped while it is not its turn: idle threads spin, and would halve the others' speed. All
    sides allocate huge pages, which spares them page faults."""

    spec: Spec

    def __post_init__(self):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={self.spec.devices}"
        self.child = subprocess.Popen(
            [sys.executable, "-m", "cardiojax.bench.serve", json.dumps(dataclasses.asdict(self.spec))], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "XLA_FLAGS": flags.strip(),
                 "XLA_PYTHON_CLIENT_PREALLOCATE": "false"})          # the sides share a GPU's memory
        self.seconds: list[float] = []
        self.about = self.heard()
        self.child.send_signal(signal.SIGSTOP)

    def heard(self):
        out, errors = self.child.stdout, self.child.stderr
        assert out is not None                       # pipes, as was asked
        assert errors is not None
        line = out.readline()
        if not line:
            last = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise InputError(f"{self.spec.name} cannot be measured: {last}")
        return json.loads(line)

    def turn(self):
        self.child.send_signal(signal.SIGCONT)
        print("once", file=self.child.stdin, flush=True)
        self.seconds.append(self.heard())
        self.child.send_signal(signal.SIGSTOP)

    def end(self):
        self.child.send_signal(signal.SIGCONT)
        if self.child.stdin is not None:
            self.child.stdin.close()
        self.peak_memory_bytes = self.heard()
        self.child.wait()

    def kill(self):
        """Where the others could not be measured."""
        self.child.kill()

    def rows(self) -> Iterator[dict]:
        what = f"{self.spec.what} {self.spec.network}" + (", whole" if self.spec.whole else "")
        median, things = float(np.median(self.seconds)), self.about["things"]
        found = {"": (things / median, f"{self.about['unit']}/s"), " call": (1000 * median, "ms"),
                 " peak memory": (self.peak_memory_bytes / 2**30, "GiB")}
        if flops := self.about["flops"]:
            found[" FLOP/s"] = flops / median / 1e12, "TFLOP/s"
            if share := share_of_peak(flops, median, self.spec, self.about["device"]):
                found[" share of peak FLOP/s"] = share, "of peak"
        for suffix, (value, unit) in found.items():
            yield {"what": what + suffix, "impl": self.spec.impl + (" compiled" if self.spec.compiled else ""),
                   "dtype": self.spec.dtype, "devices": self.spec.devices, "batch": self.spec.config.batch,
                   "value": float(f"{value:.4g}"), "unit": unit}


class Here(Side):
    """This process itself, where it is one of several that take each step together: all of them measure it."""

    def __post_init__(self):
        self.workload, self.about = serve.begun(self.spec)
        self.seconds: list[float] = []

    def turn(self):
        self.seconds.append(serve.timed(self.workload))

    def end(self):
        self.peak_memory_bytes = serve.peak_memory_bytes(self.spec)

    def kill(self):
        pass


def share_of_peak(flops: float | None, seconds: float, spec: Spec, device: str) -> float | None:
    """Of what the device's matrix units can do in the spec's type; None where their speed is not known."""
    peak = PEAKS.get(device, {}).get(spec.dtype)
    return flops / seconds / (peak * spec.devices) if peak and flops else None


def measured(specs: list[Spec], rounds: int, heard, side_of: type[Side] = Side) -> list[Side]:
    """Each side once a round, in turn; `heard(side)` after each. Raises InputError where a side cannot run."""
    sides = [side_of(spec) for spec in specs]
    try:
        for _ in range(rounds):
            for side in sides:
                side.turn()
                heard(side)
        for side in sides:
            side.end()
    finally:
        for side in sides:
            side.kill()
    return sides


def input_shares(sides: list[Side]) -> dict[str, dict[str, float]]:
    """By type, what share of a step with its input the step alone does not take; nothing where not both were
    measured."""
    seconds = {(s.spec.what, s.spec.dtype): float(np.median(s.seconds)) / s.about["things"] for s in sides}
    found = {dtype: float(f"{1 - seconds['train', dtype] / of_loop:.2g}") for (what, dtype), of_loop in seconds.items()
             if what == "loop" and ("train", dtype) in seconds}
    return {"input_share": found} if found else {}


def ratios(sides: list[Side]) -> dict[str, float | None]:
    """How many times as fast as the peer's best we are: at our best, and float32 against float32."""
    def best(impl: str, dtypes: tuple[str, ...]) -> float:
        return min((float(np.median(s.seconds)) for s in sides if s.spec.impl == impl and s.spec.dtype in dtypes),
                   default=float("nan"))

    found = {"ratio_to_peer": best("torch", ("float32", "bfloat16")) / best("cardiojax", ("float32", "bfloat16")),
             "ratio_float32": best("torch", ("float32",)) / best("cardiojax", ("float32",))}
    return {k: float(f"{v:.3g}") if np.isfinite(v) else None for k, v in found.items()}
