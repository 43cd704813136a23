"""`cardiojax experiment`: the paper's question, answered on two datasets."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from cardiojax.config import EXPERIMENT_PRESETS, Experiment
from cardiojax.errors import InputError
from launch.train import preset_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunExperiment:
    """Does pretraining on synthetic studies of flat EF make volumes better? Trains RSO (real studies only), SSO
    (synthetic only), RSP (SSO finetuned on real), RSA (both real datasets), and the ablations, over several seeds.

    Every stage is a folder below OUT/stages: stopped at any moment, the same command goes on; after a changed setting
    it redoes what depends on it. OUT/experiment.json holds what is known so far.
    """

    first: str
    """The dataset whose training split the generator learns from, for example kaggle_dsb."""
    second: str
    """The other dataset, for example acdc."""
    data_dir: Path
    """Where `cardiojax build` has put the records."""
    out: Path
    """Folder of the stages and results."""
    preset: str = "small"
    """Defaults of all settings below: paper (GPUs), small (2 CPU cores, about 8 hours), tiny (the phantom, minutes)."""
    settings: Annotated[Experiment, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Experiment)


def main(argv: list[str]) -> int:
    preset = preset_of(argv, EXPERIMENT_PRESETS)
    try:
        args = tyro.cli(RunExperiment, args=argv, prog="cardiojax experiment", default=RunExperiment(
            first=tyro.MISSING, second=tyro.MISSING, data_dir=tyro.MISSING, out=tyro.MISSING, preset=preset,
            settings=EXPERIMENT_PRESETS[preset]))
    except ValueError as error:
        raise InputError(str(error)) from None
    from cardiojax import experiment
    from cardiojax.evaluate.comparison import compare
    from cardiojax.evaluate.metrics import MEASURES
    from cardiojax.train.run import write_text
    from launch.evaluate import show

    if args.first == args.second:
        raise InputError(f"the two datasets are the same, {args.first}")
    result = experiment.run(args.settings, preset=args.preset, first=args.first, second=args.second,
                            data_dir=args.data_dir, out=args.out)
    result["comparisons"] = compare(args.out, result["datasets"])
    write_text(args.out / "experiment.json", json.dumps(result, indent=2))
    for dataset, experiments in result["datasets"].items():
        rows = [["", "seeds", "EDV RMSE (ml)", "ESV RMSE (ml)", "EF RMSE (points)", "EF, ratio to RSO [95 % CI]", ""]]
        for name, seeds in experiments.items():
            ef = result["comparisons"][dataset][name].get("ef")
            rows.append([name, str(len(seeds)), *(
                f"{sum(m[k]['rmse'] for m in seeds) / len(seeds):.1f}" for k in MEASURES), *(
                (f"{ef['rmse_ratio']:.2f} [{ef['rmse_ratio_ci95'][0]:.2f}, {ef['rmse_ratio_ci95'][1]:.2f}]",
                 ef["verdict"]) if ef else ("", ""))])
        show(rows, f"{dataset}:test")
    print(f"results: {args.out / 'experiment.json'}")
    return 0
