"""How long each verb takes to start: to its help, its first step, or its result for one study, from a process's start.

    python benchmarks/starts.py --data acdc --data-dir data --json benchmarks/results/starts.json

Each command twice: with an empty folder of compiled programs, as every start was before they were kept, and with what
the first one left there. Trainings are stopped after their first step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from cardiojax.cli.bench import device_name
from cardiojax.files import write_text
from cardiojax.phantom.dicom import write_study
from cardiojax.provenance import commit
from cardiojax.train import first_step

POLL_S = 0.02


def commands(args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Verbs with what they need, by name."""
    data = ["--data", f"{args.data}:train", "--data-dir", str(args.data_dir)]
    train = {f"train {task}, {args.preset}": ["train", task, "--preset", args.preset, *data, "--run",
                                              str(folder / task)] for task in ("sfera", "contours", "gaugan")}
    predict = {f"predict a study, {run}": ["predict", str(folder / "study"), "--run", run, "--csv",
                                           str(folder / f"{run}.csv")] for run in ("contours-small", "sfera-small")}
    return {"--help": ["--help"], "demo": ["demo", "--out", str(folder / "demo")], **predict, **train}


def seconds(words: list[str], cache: Path, first: Path) -> float:
    """From a command's start to its first step, or to its end where it takes none."""
    first.unlink(missing_ok=True)
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "cardiojax", *words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "CARDIOJAX_CACHE": str(cache), first_step.FILE: str(first)})
    while process.poll() is None and not first.exists():
        time.sleep(POLL_S)
    took = time.perf_counter() - began
    process.kill()
    said = process.communicate()[1]
    if process.returncode > 0:
        sys.exit(f"{' '.join(words)}: {said.strip().splitlines()[-1]}")
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="acdc")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--preset", default="small", choices=["large", "small", "tiny"])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_study(folder, "dsb_like", 0, "study", phases=2, other_views=False)
        for name, words in commands(args, folder).items():
            cold, warm = (seconds(words, folder / "cache" / name, folder / "first") for _ in range(2))
            rows[name] = {"cold_s": round(cold, 1), "warm_s": round(warm, 1)}
            print(name, rows[name], flush=True)
            write_text(args.json, json.dumps({
                "device": device_name(jax.devices()[0].device_kind), "jax": jax.__version__, "commit": commit(),
                "data": args.data, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
