"""`cardiojax demo`: the paper's experiment on the embedded cohort, from nothing to a report."""

import dataclasses
import logging
import time
from pathlib import Path

import tyro

log = logging.getLogger("cardiojax")

VARIANTS = ("dsb_like", "ukb_like")


@dataclasses.dataclass(frozen=True)
class Demo:
    """Make a phantom cohort and run the paper's experiment on its two variants: train SFERA on real studies, a GauGAN,
    and SFERA pretrained on a synthetic cohort; measure volumes on their test studies and write a report.

    Takes a few minutes on 2 cores and needs no data. Started again it goes on where it stopped.
    """

    out: Path = Path("runs/demo")
    """Folder for data, runs and results."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Demo, args=argv, prog="cardiojax demo")
    from cardiojax.cli.build import main as build_data
    from cardiojax.cli.experiment import compiled_once, tell
    from cardiojax.config import EXPERIMENT_PRESETS
    from cardiojax.experiment import run as experiment

    began = time.monotonic()
    log.info("phantom cohort → %s", args.out / "data")
    build_data(["phantom", "--data-dir", str(args.out / "data")])
    first, second = (f"phantom/{variant}" for variant in VARIANTS)
    with compiled_once():
        result = experiment.run(EXPERIMENT_PRESETS["tiny"], preset="tiny", first=first, second=second,
                                data_dir=args.out / "data", out=args.out / "experiment")
    tell(result, args.out / "experiment")
    print(f"done in {time.monotonic() - began:.0f} s")
    return 0
