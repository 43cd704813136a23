"""Few annotated studies: what their masks are worth, by how many of them there are.

All that is known lies in the labelled studies of one dataset: their volumes and their masks. The generator of an arm,
its cohort and its contours are made from those studies alone. The patients are cut into five folds; seed k tests fold
k, so that with five seeds every patient is tested once, by networks that have not seen them.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cardiojax import data
from cardiojax.data import Split, builders
from cardiojax.errors import DataError
from cardiojax.experiment.comparison import Predictions
from cardiojax.experiment.config import FOLDS, FewAnnotatedConfig
from cardiojax.experiment.folders import fingerprint
from cardiojax.experiment.label_arms import HYBRID, RSO, RSO_PAPER, Cell, LabelArms
from cardiojax.models import load
from cardiojax.models.gaugan import GauganModel
from cardiojax.synthesis.build import VERSION, CohortSettings, build_cohort
from cardiojax.train import contours, gaugan

CONTOURS, GAUGAN, WARP, HYBRID_RSO = "contours", "RSP-gaugan", "RSP-warp", "hybrid-RSO"


class FewAnnotated(LabelArms):
    """The arms' generators, cohorts and trainings as stages, and what they predict of a fold."""

    config: FewAnnotatedConfig
    main, control, pooled = GAUGAN, WARP, True

    def __init__(self, config: FewAnnotatedConfig, preset: str, dataset: str, data_dir: Path, out: Path,
                 make: bool = True):
        """Raises DataError where studies have no masks, or there are fewer than five patients."""
        everyone = data.joined(*(data.open_split(f"{dataset}:{split}", data_dir)
                                 for split in ("train", "validation", "test")))
        super().__init__(config, preset, dataset, folds(everyone, dataset)[:config.seeds], data_dir, out, make)

    def setting(self) -> str:
        train, test = (len(self.splits[0][split]) for split in ("train", "test"))
        return (f"{self.dataset} in {FOLDS} folds by patient, of which {len(self.splits)} are tested, {self.tested()} "
                f"studies in all: seed k on fold k ({test} studies), with {train} others to draw labelled ones from, "
                "which have volumes and masks. The fold after it gives SFERA's deviations, and no estimate depends on "
                "it.")

    def sees(self) -> dict[str, str]:
        before, after, both = self.config.pretraining_steps, self.config.finetuning_steps, self.updates(RSO)
        of_labelled = "the labelled studies' volumes" + (
            " and slices' LV areas" if self.config.sfera.area_weight else "")
        own = f"SFERA pretrained for {before:,} updates on a cohort of the labelled studies' masks, varied, and"
        finetuned = f"then finetuned for {after:,} on {of_labelled}"
        return {
            RSO: f"SFERA from random weights: {of_labelled}, {both:,} updates",
            RSO_PAPER: f"SFERA by the paper's recipe: the labelled studies' volumes, {both:,} updates",
            WARP: f"{own} their images, warped; {finetuned}",
            GAUGAN: f"{own} images of a GauGAN ({self.config.gaugan.steps:,} updates on the labelled studies, held to "
                    f"its masks by {CONTOURS}); {finetuned}",
            CONTOURS: f"the labelled studies' masks, {self.config.contours.steps:,} updates; calibrated on the same",
            HYBRID: f"the mean of {CONTOURS} and {GAUGAN}",
            HYBRID_RSO: f"the mean of {CONTOURS} and {RSO}: what of {HYBRID} is not pretraining"}

    def updates(self, arm: str) -> int:
        """Of the networks that an arm consists of."""
        of_sfera = self.config.pretraining_steps + self.config.finetuning_steps
        return {CONTOURS: self.config.contours.steps, HYBRID: self.config.contours.steps + of_sfera,
                HYBRID_RSO: self.config.contours.steps + of_sfera}.get(arm, of_sfera)

    def cells(self) -> dict[Cell, Callable[[], Predictions]]:
        """Few labelled studies, with all their seeds, before many: the primary endpoint is decided first."""
        found: dict[Cell, Callable[[], Predictions]] = {}
        for count in self.counts:
            for seed in range(self.config.seeds):
                found |= {(arm, count, seed): functools.partial(self.of_run, seed, train, count, seed)
                          for arm, train in ((RSO, self.rso), (CONTOURS, self.contours), (WARP, self.warp),
                                             (GAUGAN, self.painted))}
                found |= {(hybrid, count, seed): functools.partial(self.mean, found, (CONTOURS, other), count, seed)
                          for hybrid, other in ((HYBRID, GAUGAN), (HYBRID_RSO, RSO))}
                found[RSO_PAPER, count, seed] = functools.partial(self.of_run, seed, self.rso_paper, count, seed)
        return found

    def contours(self, count: int, seed: int) -> Path:
        settings, labelled = self.config.contours, self.labelled(count, seed)
        made_from = {"task": "contours", "config": dataclasses.asdict(settings), "seed": seed,
                     "data": self.digests(count, seed)}
        return self.stage(f"contours_{count}_{seed}", made_from, lambda run: contours.train(
            settings, preset=self.preset, training=labelled, validation=without_patients(labelled),
            data_dir=self.data_dir, run=run, seed=seed))

    def generator(self, count: int, seed: int) -> Path:
        """A GauGAN of the labelled studies, whose images contours of the same studies must find again."""
        settings, reader = self.config.gaugan, self.contours(count, seed)
        labelled = self.labelled(count, seed)
        made_from = {"task": "gaugan", "config": dataclasses.asdict(settings), "seed": seed, "contours": reader.name,
                     "data": self.digests(count, seed)}
        return self.stage(f"gaugan_{count}_{seed}", made_from, lambda run: gaugan.train(
            dataclasses.replace(settings, contours=str(reader)), preset=self.preset, training=labelled,
            validation=without_patients(labelled), data_dir=self.data_dir, run=run, seed=seed))

    def cohort(self, name: str, count: int, seed: int, generator: Path | None) -> Split:
        """Descendants of the labelled studies, with a uniform EF."""
        settings = CohortSettings("uniform", self.config.synthetic, seed)
        made_from = {"task": "cohort", "settings": dataclasses.asdict(settings),
                     "gaugan": generator and generator.name, "data": self.digests(count, seed)}

        def work(folder: Path):
            model = load(generator) if generator else None
            assert model is None or isinstance(model, GauganModel)
            build_cohort(model, {"train": self.labelled(count, seed)}, folder, settings, no_real_ef)

        folder = self.stage(f"{name}_{count}_{seed}", made_from, work, below="data/synthetic", inside=VERSION)
        return data.open_split(f"synthetic/{folder.parent.name}:train", self.out / "data")

    def warp(self, count: int, seed: int) -> Path:
        return self.rsp("warp", count, seed, None)

    def painted(self, count: int, seed: int) -> Path:
        return self.rsp("gaugan", count, seed, self.generator(count, seed))

    def rsp(self, name: str, count: int, seed: int, generator: Path | None) -> Path:
        cohort = self.cohort(name, count, seed, generator)
        return self.finetuned(name, count, seed, self.pretrained_on(
            f"pretrained_{name}_{count}_{seed}", fingerprint(cohort), cohort, self.splits[seed]["validation"], seed))


def folds(everyone: Split, dataset: str) -> list[dict[str, Split]]:
    """Five times: one fold of the patients to test, the next to validate, the others to train on. Raises DataError."""
    studies = list(everyone)
    if without := [study.study_id for study in studies if not study.has_lv]:
        raise DataError(f"{dataset}: {len(without)} studies have no LV in their masks, {without[0]} for one")
    real = [(study.source, study.ancestor or study.study_id) for study in studies]
    patients = builders.patients(real)
    shuffled = np.random.default_rng(0).permutation(sorted(set(patients.values())))
    if len(shuffled) < FOLDS:
        raise DataError(f"{dataset} has {len(shuffled)} patients, and {FOLDS} folds want {FOLDS} or more")
    of_patient = {patient: i % FOLDS for i, patient in enumerate(shuffled)}
    of_study = np.array([of_patient[patients[key]] for key in real])

    def tested(seed: int) -> dict[str, Split]:
        after = (of_study - seed) % FOLDS
        return {split: everyone.subset(np.flatnonzero(chosen), f"{dataset}:{split}, fold {seed} of {FOLDS}") for
                split, chosen in (("train", after > 1), ("validation", after == 1), ("test", after == 0))}

    return [tested(seed) for seed in range(FOLDS)]


def without_patients(split: Split) -> Split:
    """The studies that a network was trained on, to look at it by: nobody's estimate is chosen by it."""
    return dataclasses.replace(split, ancestors=frozenset())


def no_real_ef(name: str):
    raise DataError(f"the EF of {name} is not to be seen here")
