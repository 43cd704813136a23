"""A new site, whose studies have volumes from reports and no masks: ways to measure its other studies, by how many of
them are labelled.

Masks are known elsewhere: real studies with them, cohorts made of those, contours trained on them. A way of training is
an arm, and what it may see is in `NewSite.sees`. The subsets of labelled studies are nested: of one seed the larger
holds the smaller.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cardiojax import data
from cardiojax.config import LabelCurveConfig, SferaConfig
from cardiojax.data import Split
from cardiojax.errors import DataError, RunError
from cardiojax.evaluate import report
from cardiojax.evaluate.metrics import with_ef
from cardiojax.experiment.comparison import Predictions, folder_name, predictions
from cardiojax.experiment.folders import Folders, digest_of_arrays, fingerprint
from cardiojax.files import cell
from cardiojax.models.contours import ContoursModel
from cardiojax.train import contours, sfera

RSO, ZERO_SHOT, FITTED, TAUGHT, HYBRID = "RSO", "contours", "contours-fitted", "contours-taught", "hybrid"
Cell = tuple[str, int, int]            # arm, labelled studies, seed


class NewSite(Folders):
    """The arms' trainings as stages, and what they predict of the site's test studies."""

    def __init__(self, config: LabelCurveConfig, preset: str, site: str, pretraining: Sequence[str], reader: str,
                 data_dir: Path, out: Path, make: bool = True):
        """pretraining: datasets whose `train` SFERA is pretrained on, an arm each, the first the main one. reader: a
        contours run, or the name of one that ships. Raises DataError, RunError where one of them knows the site's
        patients or is not there."""
        super().__init__(out, make)
        self.config, self.preset, self.data_dir, self.reader_name = config, preset, data_dir, reader
        self.site = {split: data.open_split(f"{site}:{split}", data_dir).without_masks()
                     for split in ("train", "validation", "test")}
        self.reader = ContoursModel.load(reader)
        if self.reader.config.net != config.teaching.net:
            raise RunError(f"{reader} has other networks than --teaching.net: {self.reader.config.net}")
        self.annotated = self.reader.settings["data"]["training"]
        self.elsewhere = {name: data.open_split(f"{name}:train", data_dir) for name in pretraining}
        of_site = frozenset().union(*(split.ancestors for split in self.site.values()))
        for known in (*self.elsewhere.values(), data.open_split(self.annotated, data_dir, need_volumes=False)):
            if shared := known.ancestors & of_site:
                raise DataError(f"{known.name} knows patients of {site}: {', '.join(sorted(shared)[:3])}")
        self.pretraining = {name.removeprefix("synthetic/"): name for name in pretraining}     # by what arms call it
        self.main = f"RSP-{next(iter(self.pretraining))}"
        self.counts = sorted({max(round(share * len(self.site["train"])), config.sfera.batch)
                              for share in config.shares})
        self.digests = {name: fingerprint(split) for name, split in self.elsewhere.items()}
        self.of_site = [fingerprint(self.site["validation"]), fingerprint(self.site["test"])]

    def sees(self) -> dict[str, str]:
        """By arm, what it learns from."""
        updates = {True: f"{self.config.pretraining_steps:,} updates, then {self.config.finetuning_steps:,} on the "
                         "labelled studies' volumes", False: f"{self.updates(RSO):,} updates"}
        return {
            ZERO_SHOT: f"{self.reader_name} as it is: the masks of {self.annotated}, nothing of the site",
            FITTED: "the same, its volumes fitted linearly (least squares) to the labelled studies'",
            RSO: f"SFERA from random weights: the labelled studies' volumes, {updates[False]}",
            **{f"SSO-{short}": f"SFERA trained on {name} (volumes, masks), {self.config.pretraining_steps:,} updates, "
                               "nothing of the site" for short, name in self.pretraining.items()},
            **{f"RSP-{short}": f"SFERA pretrained on {name} (volumes, masks), {updates[True]}"
               for short, name in self.pretraining.items()},
            HYBRID: f"the mean of {FITTED} and {self.main}",
            TAUGHT: f"{self.reader_name}, {self.updates(TAUGHT):,} updates more on the masks of {self.annotated} and "
                    "the labelled studies' volumes together"}

    def updates(self, arm: str) -> int:
        """How often an arm's weights are updated, those of contours since they were given."""
        before, after = self.config.pretraining_steps, self.config.finetuning_steps
        return {ZERO_SHOT: 0, FITTED: 0, TAUGHT: self.config.teaching.steps}.get(
            arm, before if arm.startswith("SSO") else before + after)

    def cells(self) -> dict[Cell, Callable[[], Predictions]]:
        """What makes each arm's predictions of the test studies: few labelled studies before many, every arm of a seed
        before the next seed. What has learned nothing of the site is there with 0 labelled studies; contours also with
        any number, to be compared with others."""
        def run_of(train: Callable[..., Path], *given) -> Predictions:
            run = train(*given)
            self.evaluated(run, self.site["test"])
            return predictions(run, self.site["test"].name)

        found: dict[Cell, Callable[[], Predictions]] = {}
        for seed in range(self.config.seeds):
            for count in self.counts:
                found[ZERO_SHOT, count, seed] = self.zero_shot
                found[FITTED, count, seed] = functools.partial(self.fitted, count, seed)
                found[RSO, count, seed] = functools.partial(run_of, self.rso, count, seed)
                for short, name in self.pretraining.items():
                    found[f"RSP-{short}", count, seed] = functools.partial(run_of, self.rsp, name, count, seed)
                found[HYBRID, count, seed] = functools.partial(
                    self.hybrid, count, seed, found[self.main, count, seed])
            found[ZERO_SHOT, 0, seed] = self.zero_shot
            for short, name in self.pretraining.items():
                found[f"SSO-{short}", 0, seed] = functools.partial(run_of, self.pretrained, name, seed)
            if self.config.taught:
                found |= {(TAUGHT, count, seed): functools.partial(run_of, self.taught, count, seed)
                          for count in self.counts}
        return found

    def labelled(self, count: int, seed: int) -> Split:
        whole = self.site["train"]
        chosen = np.random.default_rng(seed).permutation(len(whole))[:count]
        return whole.subset(chosen, f"{whole.name}, {count} of {len(whole)} by seed {seed}")

    def rso(self, count: int, seed: int) -> Path:
        return self.sfera(f"rso_{count}_{seed}", self.labelled(count, seed), seed, dataclasses.replace(
            self.config.sfera, steps=self.updates(RSO)))

    def rsp(self, name: str, count: int, seed: int) -> Path:
        finetuning = dataclasses.replace(self.config.sfera, steps=self.config.finetuning_steps,
                                         learning_rate=self.config.finetuning_rate)
        return self.sfera(f"rsp_{folder_name(name)}_{count}_{seed}", self.labelled(count, seed), seed, finetuning,
                          self.pretrained(name, seed))

    def pretrained(self, name: str, seed: int) -> Path:
        """On studies that are not the site's; shared by all numbers of labelled studies."""
        settings = dataclasses.replace(self.config.sfera, steps=self.config.pretraining_steps)
        made_from = {"task": "sfera", "config": dataclasses.asdict(settings), "seed": seed,
                     "data": self.digests[name]}
        return self.stage(f"pretrained_{folder_name(name)}_{seed}", made_from, lambda run: sfera.train(
            settings, preset=self.preset, training=self.elsewhere[name], validation=None, data_dir=self.data_dir,
            run=run, seed=seed))

    def sfera(self, name: str, labelled: Split, seed: int, settings: SferaConfig, init: Path | None = None) -> Path:
        """One training on the site's volumes. Its validation studies give deviations, and no estimate."""
        made_from = {"task": "sfera", "config": dataclasses.asdict(settings), "seed": seed,
                     "parent": init and init.name, "data": [fingerprint(labelled), *self.of_site]}
        return self.stage(name, made_from, lambda run: sfera.train(
            settings, preset=self.preset, training=labelled, validation=self.site["validation"],
            data_dir=self.data_dir, run=run, init=init, seed=seed))

    def taught(self, count: int, seed: int) -> Path:
        """Contours that go on learning: masks from elsewhere, volumes of the site. Calibrated without the site."""
        settings, labelled = self.config.teaching, self.labelled(count, seed)
        made_from = {"task": "contours", "config": dataclasses.asdict(settings), "seed": seed,
                     "parent": digest_of_arrays(self.reader.arrays()), "data": [fingerprint(labelled), *self.of_site]}
        return self.stage(f"taught_{count}_{seed}", made_from, lambda run: contours.train(
            settings, preset=self.preset, validation=data.default_validation(self.annotated), data_dir=self.data_dir,
            training=data.joined(data.open_split(self.annotated, self.data_dir, need_volumes=False), labelled),
            run=run, init=Path(self.reader_name), seed=seed))

    def zero_shot(self, split: str = "test") -> Predictions:
        """What contours that have seen nothing of the site find, in the order of study ids."""
        def work(folder: Path):
            for studies in (self.site["train"], self.site["test"]):
                report.evaluate(self.reader, studies, folder / "evaluations" / folder_name(studies.name))

        run = self.stage("contours", {"contours": digest_of_arrays(self.reader.arrays()), "data": [
            fingerprint(self.site["train"]), *self.of_site]}, work)
        return predictions(run, self.site[split].name)

    def fitted(self, count: int, seed: int) -> Predictions:
        """EDV and ESV, each linear in both that the contours find."""
        read, test = self.zero_shot("train"), self.zero_shot()
        ids = {cell(study.study_id) for study in self.labelled(count, seed)}
        chosen = np.array([i in ids for i in sorted(cell(study.study_id) for study in self.site["train"])])
        fit, *_ = np.linalg.lstsq(affine(read["predicted"][chosen]), read["truth"][chosen, :2])
        return {**test, "predicted": with_ef(affine(test["predicted"]) @ fit)}

    def hybrid(self, count: int, seed: int, main: Callable[[], Predictions]) -> Predictions:
        """Half of each: whatever else would have to be learned from studies that neither was trained on."""
        one, other = self.fitted(count, seed), main()
        return {**one, "predicted": with_ef((one["predicted"][:, :2] + other["predicted"][:, :2]) / 2)}


def affine(predicted: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Rows of EDV, ESV, EF → EDV, ESV, 1."""
    return np.column_stack([predicted[:, :2], np.ones(len(predicted))])
