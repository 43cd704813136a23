"""`cardiojax demo`: the main job on the embedded cohort, from nothing to a table."""

import dataclasses
import json
import logging
import time
from pathlib import Path

import tyro

log = logging.getLogger("cardiojax")

VARIANTS = ("dsb_like", "ukb_like")


@dataclasses.dataclass(frozen=True)
class Demo:
    """Make a phantom cohort, train SFERA (preset tiny) on both variants, measure volumes on their test studies.

    Takes a few minutes on 2 cores and needs no data. Started again it goes on where it stopped.
    """

    out: Path = Path("runs/demo")
    """Folder for data, run and results."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Demo, args=argv, prog="cardiojax demo")
    from cardiojax import load
    from cardiojax.config import SFERA_PRESETS
    from cardiojax.data import open_split
    from cardiojax.evaluate import report
    from cardiojax.train import sfera
    from launch.build import main as build
    from launch.evaluate import show

    began = time.monotonic()
    data_dir, run = args.out / "data", args.out / "sfera"
    log.info("1/3 phantom cohort → %s", data_dir)
    build(["phantom", "--data-dir", str(data_dir)])
    log.info("2/3 SFERA, preset tiny → %s", run)
    sfera.train(SFERA_PRESETS["tiny"], preset="tiny", training=",".join(f"phantom/{v}:train" for v in VARIANTS),
                validation="phantom/dsb_like:validation", data_dir=data_dir, run=run)
    log.info("3/3 test studies")
    predictor, results = load(run), {}
    for variant in VARIANTS:
        split = open_split(f"phantom/{variant}:test", data_dir)
        results[variant] = report.evaluate(predictor, split, args.out / variant)
        show(report.table(results[variant]), f"phantom/{variant}:test, {len(split)} studies")
        print(f"report: {args.out / variant / 'report.html'}")
    (args.out / "demo.json").write_text(json.dumps(results, indent=2))
    print(f"done in {time.monotonic() - began:.0f} s")
    return 0
