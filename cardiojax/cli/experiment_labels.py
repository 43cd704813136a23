"""`cardiojax experiment labels`: a new site's label curve."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cardiojax.cli.train import preset_of
from cardiojax.config import LABEL_CURVE_PRESETS, LabelCurveConfig
from cardiojax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentLabels:
    """How many labelled studies does a new site need? SITE has studies with volumes from reports, and nobody's masks
    (its own are hidden). Of 10, 25, 50 and 100 % of its training studies, nested subsets by seed, every arm makes what
    it can: SFERA from random weights (RSO), SFERA pretrained on other datasets and finetuned (RSP), contours from
    elsewhere as they are, fitted to the labelled volumes, and taught by them. All SFERAs have equally many updates.

    The primary endpoint is the RMSE of EF with the fewest labelled studies, the first of --pretraining over RSO.
    Stopped at any moment, the same command goes on; several processes share one OUT. OUT/label_curve.json holds what is
    known so far; at the end OUT gets label_curve.html and its figure.
    """

    site: str
    """The dataset with volumes alone, for example kaggle_dsb."""
    pretraining: tuple[str, ...]
    """Datasets to pretrain on (their `train`), an arm each: cohorts of `cardiojax build synthetic`, for example
    synthetic/gaugan synthetic/warp, and real ones, acdc. None may know the site's patients."""
    contours: str = "contours-small"
    """Contours from elsewhere: a run folder, or the name of a model that ships. The dataset that they were trained on
    is opened too."""
    data_dir: Path
    """Where `cardiojax build` has put the records."""
    out: Path
    """Folder of the stages and results."""
    preset: str = "small"
    """Defaults of all settings below: large (GPUs), small (2 CPU cores, hours), tiny (tests)."""
    report_only: bool = False
    """Train nothing; write the page of the stages that are there."""
    settings: Annotated[LabelCurveConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=LabelCurveConfig)


def main(argv: list[str]) -> int:
    preset = preset_of(argv, LABEL_CURVE_PRESETS)
    try:
        args = tyro.cli(ExperimentLabels, args=argv, prog="cardiojax experiment labels", default=ExperimentLabels(
            site=tyro.MISSING, pretraining=tyro.MISSING, data_dir=tyro.MISSING, out=tyro.MISSING, preset=preset,
            settings=LABEL_CURVE_PRESETS[preset]))
    except ValueError as error:
        raise InputError(str(error)) from None
    from cardiojax.cli.evaluate import show
    from cardiojax.evaluate.metrics import MEASURES
    from cardiojax.experiment import label_curve

    if not args.pretraining:
        raise InputError("--pretraining wants one dataset or more, for example synthetic/warp")
    result = label_curve.run(args.settings, preset=args.preset, site=args.site, pretraining=args.pretraining,
                             reader=args.contours, data_dir=args.data_dir, out=args.out, make=not args.report_only)
    for measure in MEASURES:
        show(label_curve.table(result, measure), f"RMSE (bias) of {measure.upper()}")
    print(label_curve.primary_in_words(result))
    print("\n".join(["Exploratory.", *label_curve.verdicts(result), f"report: {args.out / 'label_curve.html'}"]))
    return 0
