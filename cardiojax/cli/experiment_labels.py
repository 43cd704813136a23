"""`cardiojax experiment labels` and `annotations`: errors by the number of labelled studies."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cardiojax.cli.presets import with_preset
from cardiojax.errors import InputError
from cardiojax.experiment.config import FEW_ANNOTATED_PRESETS, NEW_SITE_PRESETS, FewAnnotatedConfig, NewSiteConfig

if TYPE_CHECKING:
    from cardiojax.experiment.label_arms import LabelArms


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentLabels:
    """How many labelled studies does a new site need? SITE has studies with volumes from reports, and nobody's masks
    (its own are hidden). Of 10, 25, 50 and 100 % of its training studies, nested subsets by seed, every arm makes what
    it can: SFERA from random weights (RSO; RSO-paper: by the paper's recipe), SFERA pretrained on other datasets and
    finetuned (RSP), contours from elsewhere as they are, fitted to the labelled volumes, and taught by them. All SFERAs
    have equally many updates.

    The primary endpoint is the RMSE of EF with the fewest labelled studies, the first of --pretraining over RSO.
    Stopped at any moment, the same command goes on; several processes share one OUT. OUT/label_curve.json holds what is
    known so far; at the end OUT gets label_curve.html and its figure.
    """

    site: str
    """The dataset with volumes alone, for example kaggle_dsb."""
    pretraining: tuple[str, ...]
    """Datasets to pretrain on (their `train`), an arm each: cohorts of `cardiojax build synthetic`, for example
    synthetic/gaugan synthetic/warp, and real ones, acdc. Each has a `validation` split too (cohorts: --from
    acdc:train,acdc:validation), and none may know the site's patients."""
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
    known: tuple[Path, ...] = ()
    """cells.json of other OUTs with these settings, from another machine for instance: their cells are not made
    again."""
    settings: Annotated[NewSiteConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=NewSiteConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentAnnotations:
    """What are few annotated studies worth? DATASET has volumes and masks; 10, 25, 50 and 100 % of its training studies
    are shown, nested subsets by seed: SFERA from random weights (RSO; RSO-paper: by the paper's recipe), SFERA
    pretrained on synthetic studies made of those few alone, painted by a GauGAN or warped, and finetuned on their
    volumes and slices' LV areas (RSP), contours of their masks, and hybrids. All SFERAs have equally many updates.
    The patients are cut into five folds; seed k tests fold k.

    The primary endpoint is the RMSE of EF with the fewest labelled studies, RSP of the GauGAN over RSO. Stopped at any
    moment, the same command goes on; several processes share one OUT. OUT/label_curve.json holds what is known so far;
    at the end OUT gets label_curve.html and its figure.
    """

    dataset: str
    """The dataset with masks, for example acdc."""
    data_dir: Path
    """Where `cardiojax build` has put the records."""
    out: Path
    """Folder of the stages and results."""
    preset: str = "small"
    """Defaults of all settings below: large (GPUs), small (2 CPU cores, hours), tiny (tests)."""
    report_only: bool = False
    """Train nothing; write the page of the stages that are there."""
    known: tuple[Path, ...] = ()
    """cells.json of other OUTs with these settings, from another machine for instance: their cells are not made
    again."""
    settings: Annotated[FewAnnotatedConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=FewAnnotatedConfig)


def labels(argv: list[str]) -> int:
    args = with_preset(ExperimentLabels, NEW_SITE_PRESETS, argv, "cardiojax experiment labels")
    if not args.pretraining:
        raise InputError("--pretraining wants one dataset or more, for example synthetic/warp")
    from cardiojax.experiment.new_site import NewSite

    return run(NewSite(args.settings, args.preset, args.site, args.pretraining, args.contours, args.data_dir, args.out,
                       not args.report_only), args.known)


def annotations(argv: list[str]) -> int:
    args = with_preset(ExperimentAnnotations, FEW_ANNOTATED_PRESETS, argv, "cardiojax experiment annotations")
    from cardiojax.experiment.few_annotated import FewAnnotated

    return run(FewAnnotated(args.settings, args.preset, args.dataset, args.data_dir, args.out, not args.report_only),
               args.known)


def run(arms: "LabelArms", known: tuple[Path, ...]) -> int:
    from cardiojax.cli.evaluate import show
    from cardiojax.evaluate.metrics import MEASURES
    from cardiojax.experiment import label_curve

    result = label_curve.run(arms, known)
    for measure in MEASURES:
        show(label_curve.table(result, measure), f"RMSE (bias) of {measure.upper()}")
    print(label_curve.primary_in_words(result))
    print("\n".join(["Exploratory.", *label_curve.verdicts(result), f"report: {arms.out / 'label_curve.html'}"]))
    return 0
