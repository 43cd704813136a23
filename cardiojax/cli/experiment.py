"""`cardiojax experiment`: the paper's question, answered on two datasets."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cardiojax.cli.presets import with_preset
from cardiojax.errors import InputError
from cardiojax.experiment.config import EXPERIMENT_PRESETS, ExperimentConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunExperiment:
    """Does pretraining on synthetic studies of flat EF make volumes better? Trains RSO (real studies only), RSO-long
    (the same for as many updates as RSP), SSO (synthetic only), RSP (SSO finetuned on real), RSA (both real datasets),
    and the ablations, over several seeds. The primary endpoint is the RMSE of EF on FIRST, RSP against RSO-long.

    Every stage is a folder below OUT/stages: stopped at any moment, the same command goes on; after a changed setting
    it redoes what depends on it. OUT/experiment.json holds what is known so far; at the end OUT gets report.html,
    table1.csv and figures.

    How the benefit depends on the number of labelled studies: `cardiojax experiment labels --help` (a new site with
    volumes alone), `cardiojax experiment annotations --help` (few studies with masks).
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
    """Defaults of all settings below: paper (what the paper says and no more, GPUs), large (our best, GPUs), small
    (2 CPU cores, hours), tiny (the phantom, minutes). docs/presets.md compares them."""
    report_only: bool = False
    """Train nothing; write the report of the stages that are there."""
    settings: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ExperimentConfig)


def main(argv: list[str]) -> int:
    if argv[:1] in (["labels"], ["annotations"]):
        from cardiojax.cli.experiment_labels import annotations, labels
        return (labels if argv[0] == "labels" else annotations)(argv[1:])
    args = with_preset(RunExperiment, EXPERIMENT_PRESETS, argv, "cardiojax experiment")
    from cardiojax.experiment import run as experiment

    if args.first == args.second:
        raise InputError(f"the two datasets are the same, {args.first}")
    result = experiment.run(args.settings, preset=args.preset, first=args.first, second=args.second,
                            data_dir=args.data_dir, out=args.out, make=not args.report_only)
    tell(result, args.out)
    return 0


def tell(result: dict, out: Path):
    """The result so far on the terminal: a table for each dataset, the verdicts, where the report lies."""
    from cardiojax.cli.evaluate import show
    from cardiojax.evaluate.metrics import MEASURES
    from cardiojax.experiment.comparison import ordered
    from cardiojax.experiment.words import interval, primary, verdict

    for dataset, found in result["comparisons"].items():
        rows = [["", "updates", "seeds", "EDV RMSE (ml)", "ESV RMSE (ml)", "EF RMSE (points)", "against",
                 "EF, ratio [95 % CI]", ""]]
        for name in ordered(found):
            summary, against = found[name]["summary"], found[name].get("against")
            rows.append([name, f"{found[name]['updates']:,}", str(len(summary["seeds"])),
                         *(f"{summary[k]['rmse']:.1f}" for k in MEASURES),
                         *((against["baseline"], interval(against["ef"]), against["ef"]["verdict"]) if against else
                           ("", "", ""))])
        show(rows, f"{dataset}:test")
    print(primary(result["primary_endpoint"]))
    for dataset, found in result["comparisons"].items():
        print(f"Exploratory. {verdict(dataset, found, result['masks_own'][dataset])}")
    print(f"report: {out / 'report.html'}")
