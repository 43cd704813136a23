"""A new site, whose studies have volumes from reports and no masks: ways to measure its other studies, by how many of
them are labelled.

Masks are known elsewhere: real studies with them, cohorts made of those, contours trained on them. A way of training is
an arm, and what it may see is in `NewSite.sees`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cardiojax import data
from cardiojax.errors import DataError, RunError
from cardiojax.evaluate import report
from cardiojax.evaluate.metrics import with_ef
from cardiojax.experiment.comparison import Predictions, folder_name, predictions
from cardiojax.experiment.config import NewSiteConfig
from cardiojax.experiment.folders import fingerprint
from cardiojax.experiment.label_arms import HYBRID, RSO, RSO_PAPER, Cell, LabelArms, affine
from cardiojax.files import cell, digest
from cardiojax.models.contours import ContoursModel
from cardiojax.train import contours

ZERO_SHOT, FITTED, TAUGHT = "contours", "contours-fitted", "contours-taught"


class NewSite(LabelArms):
    """The arms' trainings as stages, and what they predict of the site's test studies."""

    config: NewSiteConfig

    def __init__(self, config: NewSiteConfig, preset: str, site: str, pretraining: Sequence[str], reader: str,
                 data_dir: Path, out: Path, make: bool = True):
        """pretraining: datasets whose `train` SFERA is pretrained on, an arm each, the first the main one;
        their `validation` gives it deviations. reader: a
        contours run, or the name of one that ships. Raises DataError, RunError where one of them knows the site's
        patients or is not there."""
        self.site = {split: data.open_split(f"{site}:{split}", data_dir).without_masks()
                     for split in ("train", "validation", "test")}
        super().__init__(config, preset, site, [self.site] * config.seeds, data_dir, out, make)
        self.reader_name, self.reader = reader, ContoursModel.load(reader)
        if self.reader.config.net != config.teaching.net:
            raise RunError(f"{reader} has other networks than --teaching.net: {self.reader.config.net}")
        self.annotated, self.of_reader = self.reader.settings["data"]["training"], digest(self.reader.arrays())[:16]
        self.elsewhere = {name: data.open_pair(f"{name}:train", None, data_dir) for name in pretraining}
        of_site = frozenset().union(*(split.ancestors for split in self.site.values()))
        for known in (*itertools.chain(*self.elsewhere.values()),
                      data.open_split(self.annotated, data_dir, need_volumes=False)):
            if shared := known.ancestors & of_site:
                raise DataError(f"{known.name} knows patients of {site}: {', '.join(sorted(shared)[:3])}")
        self.pretraining = {name.removeprefix("synthetic/"): name for name in pretraining}     # by what arms call it
        self.main = f"RSP-{next(iter(self.pretraining))}"
        self.control = next((f"RSP-{short}" for short, name in self.pretraining.items()
                             if not name.startswith("synthetic")), None)
        self.of_elsewhere = {name: fingerprint(train) for name, (train, _) in self.elsewhere.items()}

    def setting(self) -> str:
        return (f"The site, {self.dataset}, has {len(self.site['train'])} training, {len(self.site['validation'])} "
                f"validation and {self.tested()} test studies with volumes from reports; its masks, where there are "
                "any, are hidden. Its validation studies give deviations, and no estimate depends on them.")

    def settings(self) -> dict:
        return super().settings() | {"pretraining": list(self.elsewhere), "contours": self.reader_name}

    def sees(self) -> dict[str, str]:
        updates = {True: f"{self.config.pretraining_steps:,} updates, then {self.config.finetuning_steps:,} on the "
                         "labelled studies' volumes", False: f"{self.updates(RSO):,} updates"}
        return {
            ZERO_SHOT: f"{self.reader_name} as it is: the masks of {self.annotated}, nothing of the site",
            FITTED: "the same, its volumes fitted linearly (least squares) to the labelled studies'",
            RSO: f"SFERA from random weights: the labelled studies' volumes, {updates[False]}",
            RSO_PAPER: f"SFERA by the paper's recipe: the labelled studies' volumes, {updates[False]}",
            **{f"SSO-{short}": f"SFERA trained on {name} (volumes, masks), {self.config.pretraining_steps:,} updates, "
                               "nothing of the site" for short, name in self.pretraining.items()},
            **{f"RSP-{short}": f"SFERA pretrained on {name} (volumes, masks), {updates[True]}"
               for short, name in self.pretraining.items()},
            HYBRID: f"the mean of {FITTED} and {self.main}",
            TAUGHT: f"{self.reader_name}, {self.updates(TAUGHT):,} updates more on the masks of {self.annotated} and "
                    "the labelled studies' volumes together"}

    def updates(self, arm: str) -> int:
        """Those of contours count from where they were given."""
        before, after = self.config.pretraining_steps, self.config.finetuning_steps
        return {ZERO_SHOT: 0, FITTED: 0, TAUGHT: self.config.teaching.steps}.get(
            arm, before if arm.startswith("SSO") else before + after)

    def cells(self) -> dict[Cell, Callable[[], Predictions]]:
        """Few labelled studies before many, every arm of a seed before the next seed. What has learned nothing of the
        site is there with 0 labelled studies; contours also with any number, to be compared with others."""
        found: dict[Cell, Callable[[], Predictions]] = {}
        for seed in range(self.config.seeds):
            run = functools.partial(functools.partial, self.of_run, seed)
            for count in self.counts:
                found[ZERO_SHOT, count, seed] = self.zero_shot
                found[FITTED, count, seed] = functools.partial(self.fitted, count, seed)
                found[RSO, count, seed] = run(self.rso, count, seed)
                for short, name in self.pretraining.items():
                    found[f"RSP-{short}", count, seed] = run(self.rsp, name, count, seed)
                found[HYBRID, count, seed] = functools.partial(self.mean, found, (FITTED, self.main), count, seed)
                found[RSO_PAPER, count, seed] = run(self.rso_paper, count, seed)
            found[ZERO_SHOT, 0, seed] = self.zero_shot
            for short, name in self.pretraining.items():
                found[f"SSO-{short}", 0, seed] = run(self.pretrained, name, seed)
            if self.config.taught:
                found |= {(TAUGHT, count, seed): run(self.taught, count, seed) for count in self.counts}
        return found

    def rsp(self, name: str, count: int, seed: int) -> Path:
        return self.finetuned(folder_name(name), count, seed, self.pretrained(name, seed))

    def pretrained(self, name: str, seed: int) -> Path:
        """On studies that are not the site's; shared by all numbers of labelled studies."""
        return self.pretrained_on(f"pretrained_{folder_name(name)}_{seed}", self.of_elsewhere[name],
                                  *self.elsewhere[name], seed)

    def taught(self, count: int, seed: int) -> Path:
        """Contours that go on learning: masks from elsewhere, volumes of the site. Calibrated without the site."""
        settings, labelled = self.config.teaching, self.labelled(count, seed)
        made_from = {"task": "contours", "config": dataclasses.asdict(settings), "seed": seed,
                     "parent": self.of_reader, "data": self.digests(count, seed)}
        return self.stage(f"taught_{count}_{seed}", made_from, lambda run: contours.train(
            settings, preset=self.preset, validation=data.default_validation(self.annotated), data_dir=self.data_dir,
            training=data.joined(data.open_split(self.annotated, self.data_dir, need_volumes=False), labelled),
            run=run, init=Path(self.reader_name), seed=seed))

    @functools.cache                                         # noqa: B019 (as in `LabelArms`)
    def zero_shot(self, split: str = "test") -> Predictions:
        """What contours that have seen nothing of the site find, in the order of study ids."""
        def work(folder: Path):
            for studies in (self.site["train"], self.site["test"]):
                report.evaluate(self.reader, studies, folder / "evaluations" / folder_name(studies.name))

        run = self.stage("contours", {"contours": self.of_reader, "data": [
            fingerprint(self.site["train"]), *self.held_out(0)]}, work)
        return predictions(run, self.site[split].name)

    def fitted(self, count: int, seed: int) -> Predictions:
        """EDV and ESV, each linear in both that the contours find."""
        read, test = self.zero_shot("train"), self.zero_shot()
        ids = {cell(study.study_id) for study in self.labelled(count, seed)}
        chosen = np.array([i in ids for i in sorted(cell(study.study_id) for study in self.site["train"])])
        fit, *_ = np.linalg.lstsq(affine(read["predicted"][chosen]), read["truth"][chosen, :2])
        return {**test, "predicted": with_ef(affine(test["predicted"]) @ fit)}
