"""Settings of the experiments, and their presets; as in `cardiojax.config`."""

import dataclasses

from cardiojax.config import (
    CONTOURS_PRESETS,
    GAUGAN_PRESETS,
    SFERA_PRESETS,
    ContoursConfig,
    GauganConfig,
    SferaConfig,
)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """The paper's experiment on two datasets. See `experiment`."""

    sfera: SferaConfig = dataclasses.field(default_factory=SferaConfig)
    """Of every training on real studies, pretrained or not, and (but for the steps) of the pretraining."""
    gaugan: GauganConfig = dataclasses.field(default_factory=GauganConfig)
    pretraining_steps: int = 40_000
    """Of SFERA on the synthetic cohort."""
    finetuning_rate: float = 1e-3
    """Learning rate on real studies after the pretraining."""
    finetuning_steps: int = 0
    """On real studies after the pretraining; 0: as many as without it."""
    own_features: bool = False
    """The GauGAN matches images in the features of the first dataset's RSO of seed 0, not in --gaugan.perceptual's."""
    synthetic: int = 22_653
    """Studies of the cohort, training and validation."""
    seeds: int = 3
    """Trainings of RSO, RSO-long, RSP and RSA, from seed 0 on; they share one generator, cohort and pretraining."""
    ablations: bool = True
    """Also pretrain on a random half of the cohort, on half as many studies with the first dataset's EF, and on warped
    images."""

    def __post_init__(self):
        for name in ("pretraining_steps", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.finetuning_steps < 0:
            raise ValueError(f"finetuning_steps must not be negative, but is {self.finetuning_steps}")
        if self.synthetic < 4:
            raise ValueError(f"synthetic must be at least 4 studies, not {self.synthetic}")


EXPERIMENT_PRESETS = {
    "paper": ExperimentConfig(sfera=SFERA_PRESETS["paper"], gaugan=GAUGAN_PRESETS["paper"]),
    "large": ExperimentConfig(),
    "small": ExperimentConfig(
        sfera=dataclasses.replace(SFERA_PRESETS["small"], steps=800, evaluate_every=400),
        gaugan=dataclasses.replace(GAUGAN_PRESETS["small"], steps=2500, evaluate_every=1250),
        pretraining_steps=1600, own_features=True, synthetic=1500),
    "tiny": ExperimentConfig(
        sfera=dataclasses.replace(SFERA_PRESETS["tiny"], steps=120, evaluate_every=120),
        gaugan=dataclasses.replace(GAUGAN_PRESETS["tiny"], steps=100, evaluate_every=100),
        pretraining_steps=120, finetuning_rate=3e-3, own_features=True, synthetic=96, seeds=1, ablations=False),
}


FOLDS = 5                  # of the patients of one dataset


@dataclasses.dataclass(frozen=True)
class LabelCurveConfig:
    """What both label curves share."""

    sfera: SferaConfig = dataclasses.field(default_factory=SferaConfig)
    """Of every SFERA but for its steps."""
    pretraining_steps: int = 13_000
    """On other studies."""
    finetuning_steps: int = 7_000
    """On the labelled ones; without pretraining as many as both."""
    finetuning_rate: float = 1e-3
    """Learning rate after the pretraining."""
    shares: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    """Of the training studies, that are labelled."""
    seeds: int = 3
    """Of subsets and trainings, from seed 0 on."""

    def __post_init__(self):
        for name in ("pretraining_steps", "finetuning_steps", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares are above 0 and at most 1, not {self.shares}")


@dataclasses.dataclass(frozen=True)
class NewSiteConfig(LabelCurveConfig):
    """A site with volumes alone. See `experiment.new_site`."""

    teaching: ContoursConfig = dataclasses.field(default_factory=lambda: dataclasses.replace(
        CONTOURS_PRESETS["large"], steps=2000, learning_rate=1e-3))
    """Of contours that learn from the site's volumes too."""
    taught: bool = True
    """Whether there are any."""


NEW_SITE_PRESETS = {
    "large": NewSiteConfig(),
    "small": NewSiteConfig(
        sfera=SFERA_PRESETS["small"], pretraining_steps=1000, finetuning_steps=500,
        teaching=dataclasses.replace(CONTOURS_PRESETS["small"], steps=300, learning_rate=1e-3)),
    "tiny": NewSiteConfig(
        sfera=SFERA_PRESETS["tiny"], pretraining_steps=80, finetuning_steps=40, finetuning_rate=3e-3,
        teaching=dataclasses.replace(CONTOURS_PRESETS["tiny"], steps=20), shares=(0.5, 1.0), seeds=1),
}


@dataclasses.dataclass(frozen=True)
class FewAnnotatedConfig(LabelCurveConfig):
    """A dataset of which few studies have masks. See `experiment.few_annotated`."""

    gaugan: GauganConfig = dataclasses.field(default_factory=GauganConfig)
    """Of every generator; its `contours` are those of the same studies."""
    contours: ContoursConfig = dataclasses.field(default_factory=lambda: CONTOURS_PRESETS["large"])
    synthetic: int = 22_653
    """Studies of each cohort."""

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.seeds <= FOLDS:
            raise ValueError(f"seeds is 1 to {FOLDS}, a fold each, not {self.seeds}")
        if self.synthetic < 4:
            raise ValueError(f"synthetic must be at least 4 studies, not {self.synthetic}")


FEW_ANNOTATED_PRESETS = {
    "large": FewAnnotatedConfig(seeds=5),
    "small": FewAnnotatedConfig(
        sfera=SFERA_PRESETS["small"], pretraining_steps=800, finetuning_steps=400,
        gaugan=dataclasses.replace(GAUGAN_PRESETS["small"], steps=800),
        contours=dataclasses.replace(CONTOURS_PRESETS["small"], steps=1000), synthetic=600),
    "tiny": FewAnnotatedConfig(
        sfera=SFERA_PRESETS["tiny"], pretraining_steps=80, finetuning_steps=40, finetuning_rate=3e-3,
        gaugan=dataclasses.replace(GAUGAN_PRESETS["tiny"], steps=20),
        contours=dataclasses.replace(CONTOURS_PRESETS["tiny"], steps=20), synthetic=32, shares=(0.5, 1.0), seeds=1),
}
