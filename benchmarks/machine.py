"""Every figure that the README gives of a GPU, in eight minutes of it: ours, a warm start, then PyTorch's best.

    python benchmarks/machine.py --preset paper --peer --out benchmarks/results/gpu_h200

Each side is a process of its own, and both build their programs at once (compiling is most of the time, and the
host's), the most important first and alone, then three at a time. While one side measures, the other is stopped:
medians of calls that wait. A figure is written when it is there, and what is there stays: a run that was cut off
goes on, with the programs that it had compiled. `--profile` lists each program's kernels in OUT/kernels.txt.
`--preset tiny --seconds 60` tries all of it on any machine.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

BEGAN = time.time()
CALLS, CALLS_S = 40, 2.0          # at most so many calls of a program, for at most so long
MEASURING_S = 15.0                # that a side has for measuring, after what is not built by then is given up
BUILDERS = 3                      # programs built at a time, after the first: compiling tries kernels on the GPU too

OURS = {
    "gaugan step": {"what": "train", "task": "gaugan", "dtype": "bfloat16"},
    "sfera step": {"what": "train", "task": "sfera", "dtype": "bfloat16"},
    "one study": {"what": "predict", "batch": 1},
    "images": {"what": "generate", "dtype": "bfloat16"},
    "64 studies": {"what": "predict", "batch": 64, "dtype": "bfloat16"},
    "images, from NumPy to NumPy": {"what": "generate", "dtype": "bfloat16", "whole": True},
    "64 studies, to predictions": {"what": "predict", "batch": 64, "dtype": "bfloat16", "whole": True},
    "gaugan steps with input": {"what": "loop", "task": "gaugan", "dtype": "bfloat16", "keep_gib": None},
    "gaugan step, dense": {"what": "train", "task": "gaugan", "dtype": "bfloat16", "spade": "dense"},
    "sfera steps with input": {"what": "loop", "task": "sfera", "dtype": "bfloat16", "keep_gib": None},
    "sfera steps, resident": {"what": "loop", "task": "sfera", "dtype": "bfloat16", "resident": True},
    "one study, contours": {"what": "predict", "task": "contours", "batch": 1, "dtype": "bfloat16"},
    "contours step": {"what": "train", "task": "contours", "dtype": "bfloat16"},
    "images, dense": {"what": "generate", "dtype": "bfloat16", "spade": "dense"},
    "sfera step, float32": {"what": "train", "task": "sfera"},
    "gaugan step, float32": {"what": "train", "task": "gaugan"},
}
PEERS = ["sfera step", "gaugan step", "images", "one study", "contours step", "64 studies"]


def specs(preset: str, side: str):
    from cardiojax.bench.workloads import Spec
    of_peer = {"impl": "torch", "compiled": True} if side == "torch" else {}
    names = {"ours": list(OURS), "torch": PEERS, "warm": ["gaugan step"]}[side]
    return {name: Spec(**OURS[name], **of_peer,
                       preset="large" if preset == "paper" and "contours" in name else preset) for name in names}


def build(name: str, spec, file: Path, lock: threading.Lock, cold: bool):
    """The workload after two calls, or None where it fails; programs of one process must not run at the same time."""
    from cardiojax.bench.ours import ours
    from cardiojax.bench.theirs import theirs
    try:
        say(f"{name}: imported")
        workload = (ours if spec.impl == "cardiojax" else theirs)(spec)
        say(f"{name}: data and weights")
        with lock:
            workload.call()
            workload.call()
    except Exception as error:                          # one that fails must not take the others' figures along
        say(f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return None
    say(f"{name}: built")
    if name == "gaugan step" and spec.impl == "cardiojax" and (file.stem == "warm" or cold):
        file.with_name(f"start_{file.stem}.json").write_text(json.dumps(time.time() - BEGAN))
    return workload


def measured(spec, workload) -> dict:
    import jax

    from cardiojax.bench.measure import share_of_peak
    from cardiojax.cli.bench import device_name
    seconds, began = [], time.time()
    while len(seconds) < 3 or (len(seconds) < CALLS and time.time() - began < CALLS_S):
        start = time.perf_counter()
        workload.call()
        seconds.append(time.perf_counter() - start)
    median = sorted(seconds)[len(seconds) // 2]
    return {"device": device_name(jax.devices()[0].device_kind), "impl": spec.impl, "dtype": spec.dtype,
            "batch": spec.config.batch, "ms": 1000 * median,
            "min_ms": 1000 * min(seconds), "calls": len(seconds), "per_s": workload.things / median,
            "unit": spec.unit, "tflop": (workload.flops or 0) / 1e12 or None,
            "share_of_peak": share_of_peak(workload.flops, median, spec, jax.devices()[0].device_kind)}


def profiled(name: str, workload) -> str:
    """Kernels of a call, the longest first."""
    import jax
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            workload.call()
            workload.call()
        data = jax.profiler.ProfileData.from_file(str(max(Path(folder).rglob("*.xplane.pb"))))
    total, count = collections.Counter(), collections.Counter()
    for plane in data.planes:
        for line in plane.lines if "GPU" in plane.name else ():
            for event in line.events if "Stream" in line.name else ():
                facts = dict(event.stats)
                op = f"{event.name[:90]} | {facts.get('hlo_op', '')} | {facts.get('name', facts.get('tf_op', ''))}"
                total[op] += event.duration_ns / 2e6
                count[op] += 1
    lines = [f"{ms:9.3f} ms {count[op] / 2:7.1f} × {op[:300]}" for op, ms in total.most_common()]
    return "\n".join([f"{name}: {sum(total.values()):.2f} ms, {sum(count.values()) / 2:.0f} kernels", *lines, "", ""])


def side_of(args: argparse.Namespace):
    import jax

    from cardiojax.files import write_text
    jax.config.update("jax_log_compiles", True)
    logging.getLogger("jax._src.dispatch").addFilter(Compilations())
    for quiet in ("jax._src.interpreters.pxla", "jax._src.compiler"):
        logging.getLogger(quiet).setLevel(logging.ERROR)
    file = args.out / f"{args.side}.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    wanted = {name: spec for name, spec in specs(args.preset, args.side).items()
              if name not in rows and (not args.only or name in args.only)}
    names, lock = list(wanted), threading.Lock()
    # the first alone, for the start that a user waits for; a peer's each alone, for it tries kernels as it compiles
    at_a_time = BUILDERS if args.side == "ours" else 1
    for group in [names[:1], *(names[i:i + at_a_time] for i in range(1, len(names), at_a_time))]:
        pool = concurrent.futures.ThreadPoolExecutor(BUILDERS)
        workers = {name: pool.submit(build, name, wanted[name], file, lock, args.cold) for name in group}
        concurrent.futures.wait(workers.values(), timeout=max(1.0, args.until - time.time()))
        for name, worker in workers.items():
            worker.cancel()
            if worker.done() and not worker.cancelled() and (workload := worker.result()):
                with contextlib.nullcontext() if args.side == "warm" else alone(args.out, args.side):
                    rows[name] = measured(wanted[name], workload)
                    write_text(file, json.dumps(rows, indent=1))
                    say(f"{name}: {rows[name]['ms']:.2f} ms, {rows[name]['per_s']:.0f} {rows[name]['unit']}/s")
                    if args.profile and args.side == "ours":
                        with (args.out / "kernels.txt").open("a") as kernels:
                            kernels.write(profiled(name, workload))
    os._exit(0)                   # what is still compiling is of no use any more


@contextlib.contextmanager
def alone(folder: Path, side: str):
    """While it lasts the other sides' processes stand still."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = sides_in(folder, but=side)
        _signal(others, signal.SIGSTOP)
        try:
            time.sleep(0.2)                             # what they have sent to the GPU ends
            yield
        finally:
            _signal(others, signal.SIGCONT)


def sides_in(folder: Path, but: str = "") -> list[int]:
    """The process groups of the sides that are at work."""
    return [int(file.read_text()) for file in folder.glob("*.pid") if file.stem != but]


def _signal(groups: list[int], number: signal.Signals):
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)


class Compilations(logging.Filter):
    """Says how long each trace and compilation took, where it was long."""

    def filter(self, record):
        found = re.search(r"Finished (.*) in ([\d.]+) sec", record.getMessage())
        if found and float(found[2]) > 0.5:
            say(f"{found[1]} in {float(found[2]):.1f} s")
        return False


def say(text: str):
    print(f"[{time.time() - BEGAN:.0f} s] {text}", flush=True)


def summary(folder: Path, preset: str) -> dict:
    from cardiojax.provenance import commit
    sides = {side: json.loads(file.read_text()) for side in ("ours", "torch")
             if (file := folder / f"{side}.json").exists()}
    ratios = {name: row["ms"] / sides["ours"][name]["ms"] for name, row in sides.get("torch", {}).items()
              if name in sides.get("ours", {})}
    starts = {when: json.loads(file.read_text()) for when, side in (("cold", "ours"), ("warm", "warm"))
              if (file := folder / f"start_{side}.json").exists()}
    return {"device": sorted({row["device"] for side in sides.values() for row in side.values()}), "preset": preset,
            "jax": importlib.metadata.version("jax"), "commit": commit(), "seconds": round(time.time() - BEGAN),
            "ratio_to_peer": ratios, "start_to_first_steps_s": starts, **sides}


def main():
    parser = argparse.ArgumentParser(description="Every figure that the README gives of a GPU.")
    parser.add_argument("--preset", default="paper", choices=["paper", "large", "small", "tiny"])
    parser.add_argument("--peer", action="store_true", help="PyTorch's side too")
    parser.add_argument("--only", nargs="*", default=[], help="programs by name")
    parser.add_argument("--seconds", default=480.0, type=float, help="of the device, in all")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--cache", help="folder of compiled programs, by default one for this --out; where it is empty "
                                        "the start is a cold one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.side:
        side_of(args)
    for file in args.out.glob("*.pid"):                 # of a run that was cut off: the numbers are others' by now
        file.unlink()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from cardiojax.cli.main import with_our_flags
    from cardiojax.files import write_text
    of_out = hashlib.sha256(str(args.out.resolve()).encode()).hexdigest()[:8]
    cache = args.cache or f"{tempfile.gettempdir()}/cardiojax-machine-{of_out}"
    cold = [] if Path(cache).is_dir() and any(Path(cache).iterdir()) else ["--cold"]
    settings = {"JAX_COMPILATION_CACHE_DIR": cache, "XLA_FLAGS": with_our_flags(),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def started(side: str, share: float) -> tuple[str, subprocess.Popen, float]:
        until = BEGAN + share * args.seconds
        words = [*sys.argv[1:], *cold, "--side", side, "--until", str(until)]
        child = subprocess.Popen([sys.executable, __file__, *words], env={**os.environ, **settings},
                                 start_new_session=True)
        (args.out / f"{side}.pid").write_text(str(child.pid))
        return side, child, until

    def ended(side: str, child: subprocess.Popen, until: float):
        try:
            child.wait(timeout=max(1.0, until + MEASURING_S - time.time()))
        except subprocess.TimeoutExpired:               # with its compilers: what they hold would keep a pipe open
            say(f"{side} was not done in time")
            _signal([child.pid], signal.SIGKILL)
            _signal(sides_in(args.out), signal.SIGCONT)
        (args.out / f"{side}.pid").unlink()
        write_text(args.out / "summary.json", json.dumps(summary(args.out, args.preset), indent=1))

    try:
        peer = started("torch", 0.95) if args.peer else None
        ended(*started("ours", 0.75))
        with alone(args.out, "warm"):
            ended(*started("warm", 0.9))
        if peer:
            ended(*peer)
    finally:
        _signal(sides_in(args.out), signal.SIGKILL)     # they have sessions of their own, and would outlive this one
    print((args.out / "summary.json").read_text())


if __name__ == "__main__":
    main()
