"""The stages of the paper's experiment: trainings, cohorts, evaluations."""

import dataclasses
from pathlib import Path

import numpy as np

from cardiojax import data
from cardiojax.config import SferaConfig
from cardiojax.experiment.comparison import folder_name
from cardiojax.experiment.config import ExperimentConfig
from cardiojax.experiment.folders import Folders, fingerprint
from cardiojax.models import load
from cardiojax.models.gaugan import GauganModel
from cardiojax.synthesis.build import VERSION, CohortSettings, build_cohort
from cardiojax.synthesis.subset import write_half
from cardiojax.train import gaugan, sfera
from cardiojax.units import ef_percent

ABLATIONS = ("half", "as_first", "warp")        # cohorts besides the main one, "uniform"
JUDGE_SEED = 1             # of the RSO that judges the generator; seed 0 may lend it its features


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A cohort as a stage."""

    name: str
    config: str            # opens as synthetic/CONFIG in OUT/data


class Stages(Folders):
    """The trainings, cohorts and evaluations of the paper's experiment."""

    def __init__(self, config: ExperimentConfig, preset: str, first: str, second: str, data_dir: Path, out: Path,
                 make: bool = True):
        super().__init__(out, make)
        self.config, self.preset, self.first, self.second, self.data_dir = config, preset, first, second, data_dir
        self.finetuning = dataclasses.replace(config.sfera, learning_rate=config.finetuning_rate,
                                              steps=config.finetuning_steps or config.sfera.steps)
        self.cohorts: dict[str, dict[str, data.Split]] = {}
        self.splits = {f"{name}:{split}": data.open_split(f"{name}:{split}", data_dir)
                       for name in (first, second) for split in ("train", "validation", "test")}
        self.digests = {name: fingerprint(split) for name, split in self.splits.items()}

    def updates(self, experiment: str) -> int:
        """How often an experiment's weights are updated, from random ones on."""
        kind, _, variant = experiment.partition("-")
        pretraining, finetuning = self.config.pretraining_steps, self.finetuning.steps
        if kind in ("SSO", "RSP"):
            return pretraining if kind == "SSO" else pretraining + finetuning
        return pretraining + finetuning if variant == "long" else self.config.sfera.steps

    def rso(self, dataset: str, seed: int) -> Path:
        """Real studies only."""
        return self.sfera(f"rso_{folder_name(dataset)}_{seed}", f"{dataset}:train", seed, self.config.sfera)

    def long(self, dataset: str, seed: int) -> Path:
        """Real studies only, for as many updates as pretraining and finetuning take together."""
        return self.sfera(f"long_{folder_name(dataset)}_{seed}", f"{dataset}:train", seed,
                          dataclasses.replace(self.config.sfera, steps=self.updates("RSO-long")))

    def rsa(self, seed: int) -> Path:
        """Both real datasets together, no pretraining."""
        return self.sfera(f"rsa_{seed}", f"{self.first}:train,{self.second}:train", seed, self.config.sfera)

    def sso(self, cohort: Cohort, seed: int = 0) -> Path:
        """Synthetic studies only; watched on descendants of other patients."""
        steps = self.config.pretraining_steps
        every = min(steps, max(self.config.sfera.evaluate_every, steps // 2))          # each reads the whole cohort
        settings = dataclasses.replace(self.config.sfera, steps=steps, evaluate_every=every)
        made_from = {"task": "sfera", "config": dataclasses.asdict(settings), "seed": seed, "cohort": cohort.config}
        return self.stage(f"sso_{cohort.name}_{seed}", made_from, lambda run: sfera.train(
            settings, preset=self.preset, training=f"synthetic/{cohort.config}:train", validation=None,
            data_dir=self.out / "data", run=run, seed=seed))

    def rsp(self, cohort: Cohort, dataset: str, seed: int) -> Path:
        """Pretrained on a cohort, then finetuned on one real dataset."""
        name = f"rsp_{cohort.name}_{folder_name(dataset)}_{seed}"
        return self.sfera(name, f"{dataset}:train", seed, self.finetuning, self.sso(cohort))

    def sfera(self, name: str, training: str, seed: int, settings: SferaConfig, init: Path | None = None) -> Path:
        """One training on real studies."""
        validation = data.default_validation(training)
        made_from = {"task": "sfera", "config": dataclasses.asdict(settings), "seed": seed,
                     "data": [self.digests[s] for s in (*training.split(","), *validation.split(","))],
                     "parent": init and init.name}
        return self.stage(name, made_from, lambda run: sfera.train(
            settings, preset=self.preset, training=training, validation=validation, data_dir=self.data_dir, run=run,
            init=init, seed=seed))

    def gaugan(self) -> Path:
        """The generator: the training split of the first dataset is all that it sees. It is judged by a network of
        another seed than the one whose features it is trained to match."""
        features = self.rso(self.first, 0) if self.config.own_features else None
        judge = self.rso(self.first, JUDGE_SEED)
        settings = self.config.gaugan
        if features:
            settings = dataclasses.replace(settings, perceptual=f"sfera:{features}")
        made_from = {"task": "gaugan", "config": dataclasses.asdict(self.config.gaugan), "judge": judge.name,
                     "own_features": features and features.name,
                     "data": [self.digests[f"{self.first}:{s}"] for s in ("train", "validation")]}
        return self.stage("gaugan", made_from, lambda run: gaugan.train(
            settings, preset=self.preset, training=f"{self.first}:train", validation=None, data_dir=self.data_dir,
            run=run, judge=judge, seed=0))

    def cohort(self, name: str) -> Cohort:
        """Descendants of the first dataset's patients: "uniform", the main one; or one of `ABLATIONS`. "half": a
        random half of the main one's training studies; "as_first": half as many, with the first dataset's EF; "warp":
        real images warped."""
        folder = self.half() if name == "half" else self.synthesised(name)
        cohort = Cohort(name, folder.parent.name)
        if name not in self.cohorts:
            self.cohorts[name] = {s: data.open_split(f"synthetic/{cohort.config}:{s}", self.out / "data")
                                  for s in ("train", "validation")}
        return cohort

    def synthesised(self, name: str) -> Path:
        """A cohort of its own masks and images."""
        splits = {s: self.splits[f"{self.first}:{s}"] for s in ("train", "validation")}
        generator = None if name == "warp" else self.gaugan()
        settings = (CohortSettings(f"as:{self.first}", self.config.synthetic // 2) if name == "as_first" else
                    CohortSettings("uniform", self.config.synthetic))
        made_from = {"task": "cohort", "settings": dataclasses.asdict(settings), "gaugan": generator and generator.name,
                     "data": [self.digests[f"{self.first}:{s}"] for s in splits]}

        def work(folder: Path):
            model = load(generator) if generator else None
            assert model is None or isinstance(model, GauganModel)
            build_cohort(model, splits, folder, settings, self.real_ef)

        return self.stage(name, made_from, work, below="data/synthetic", inside=VERSION)

    def half(self) -> Path:
        """Half of the main cohort's training studies at random (paper: "50 %"), its validation studies unchanged."""
        whole = self.cohort("uniform")
        return self.stage("half", {"task": "half", "cohort": whole.config, "seed": 0}, lambda folder: write_half(
            self.cohorts["uniform"]["train"], self.out / "data/synthetic" / whole.config / VERSION, folder),
            below="data/synthetic", inside=VERSION)

    def real_ef(self, name: str) -> np.ndarray:
        return ef_percent(*self.splits[f"{name}:train"].volumes_ml.T)
