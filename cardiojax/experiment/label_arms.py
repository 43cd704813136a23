"""What both label curves share: nested subsets of labelled studies, and SFERA on them with and without pretraining."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cardiojax.config import SFERA_PRESETS, SferaConfig
from cardiojax.data import Split
from cardiojax.evaluate.metrics import with_ef
from cardiojax.experiment.comparison import Predictions, predictions
from cardiojax.experiment.config import LabelCurveConfig
from cardiojax.experiment.folders import Folders
from cardiojax.train import sfera

RSO, RSO_PAPER, HYBRID = "RSO", "RSO-paper", "hybrid"
Cell = tuple[str, int, int]            # arm, labelled studies, seed


class LabelArms(Folders, abc.ABC):
    """Ways of training (arms) as stages, by the number of labelled studies and by seed.

    main: the arm that the primary endpoint compares with RSO. control: the arm that all pretrained ones are compared
    with too, or None. pooled: whether every seed tests studies of its own, so that they are compared as one set.
    """

    main: str
    control: str | None = None
    pooled = False

    def __init__(self, config: LabelCurveConfig, preset: str, dataset: str, splits: Sequence[Mapping[str, Split]],
                 data_dir: Path, out: Path, make: bool):
        """splits: by seed, `train`, of which some are labelled, `validation` and `test`."""
        super().__init__(out, make)
        self.config, self.preset, self.dataset, self.splits = config, preset, dataset, splits
        self.data_dir = data_dir
        self.counts = sorted({max(round(share * len(splits[0]["train"])), config.sfera.batch)
                              for share in config.shares})

    @abc.abstractmethod
    def cells(self) -> dict[Cell, Callable[[], Predictions]]:
        """What makes each arm's predictions of the test studies, in order."""

    @abc.abstractmethod
    def sees(self) -> dict[str, str]:
        """By arm, what it learns from."""

    @abc.abstractmethod
    def updates(self, arm: str) -> int:
        """How often an arm's weights are updated."""

    @abc.abstractmethod
    def setting(self) -> str:
        """The question's setting in words."""

    def settings(self) -> dict:
        return {"preset": self.preset, "dataset": self.dataset, "config": dataclasses.asdict(self.config)}

    def tested(self) -> int:
        """How many studies are tested."""
        return len({(id(split["test"].source), int(i)) for split in self.splits for i in split["test"].index})

    def of_run(self, seed: int, train: Callable[..., Path], *given) -> Predictions:
        """What the run that `train` makes predicts of the seed's test studies."""
        run, test = train(*given), self.splits[seed]["test"]
        self.evaluated(run, test)
        return predictions(run, test.name)

    @functools.cache                                         # noqa: B019 (arms live as long as their experiment)
    def labelled(self, count: int, seed: int) -> Split:
        """Of one seed the larger subset holds the smaller."""
        whole = self.splits[seed]["train"]
        chosen = np.random.default_rng(seed).permutation(len(whole))[:count]
        return whole.subset(chosen, f"{whole.name}, {count} of {len(whole)} by seed {seed}")

    def digests(self, count: int, seed: int) -> list[str]:
        """Of all studies that an arm is given."""
        return [self.studies_of(self.labelled(count, seed)), *self.held_out(seed)]

    def held_out(self, seed: int) -> list[str]:
        return [self.studies_of(self.splits[seed][split]) for split in ("validation", "test")]

    def mean(self, cells: dict[Cell, Callable[[], Predictions]], arms: tuple[str, str], count: int, seed: int
             ) -> Predictions:
        """Half of each of two arms, whatever else would have to be learned from studies that neither was trained on.
        Their cells are taken as they are when they are asked for, from elsewhere perhaps."""
        one, other = (cells[arm, count, seed]() for arm in arms)
        return {**one, "predicted": with_ef((one["predicted"][:, :2] + other["predicted"][:, :2]) / 2)}

    def rso(self, count: int, seed: int) -> Path:
        """From random weights, with as many updates as pretraining and finetuning take together."""
        return self.sfera(f"rso_{count}_{seed}", count, seed, self.alone())

    def rso_paper(self, count: int, seed: int) -> Path:
        """RSO by the paper's recipe: how much of RSO is ours, at each number of studies."""
        return self.sfera(f"rso_paper_{count}_{seed}", count, seed, by_the_paper(self.alone()))

    def alone(self) -> SferaConfig:
        """Without pretraining: as many updates as with it."""
        return dataclasses.replace(self.config.sfera,
                                   steps=self.config.pretraining_steps + self.config.finetuning_steps)

    def finetuned(self, name: str, count: int, seed: int, pretrained: Path) -> Path:
        finetuning = dataclasses.replace(self.config.sfera, steps=self.config.finetuning_steps,
                                         learning_rate=self.config.finetuning_rate)
        return self.sfera(f"rsp_{name}_{count}_{seed}", count, seed, finetuning, pretrained)

    def sfera(self, name: str, count: int, seed: int, settings: SferaConfig, init: Path | None = None) -> Path:
        """One training on labelled studies. The validation studies give deviations, and no estimate."""
        made_from = {"task": "sfera", "config": dataclasses.asdict(settings), "seed": seed,
                     "parent": init and init.name, "data": self.digests(count, seed)}
        return self.stage(name, made_from, lambda run: sfera.train(
            settings, preset=self.preset, training=self.labelled(count, seed),
            validation=self.splits[seed]["validation"], data_dir=self.data_dir, run=run, init=init, seed=seed))

    def pretrained_on(self, name: str, digest: str, training: Split, validation: Split, seed: int) -> Path:
        """SFERA on other studies than the labelled ones."""
        settings = dataclasses.replace(self.config.sfera, steps=self.config.pretraining_steps)
        made_from = {"task": "sfera", "config": dataclasses.asdict(settings), "seed": seed, "data": digest}
        return self.stage(name, made_from, lambda run: sfera.train(
            settings, preset=self.preset, training=training, validation=validation, data_dir=self.data_dir, run=run,
            seed=seed))


def by_the_paper(settings: SferaConfig) -> SferaConfig:
    """The preset `paper` with the sizes, the batch and the steps of these settings."""
    paper = SFERA_PRESETS["paper"]
    net = dataclasses.replace(settings.net, readout=paper.net.readout, dropout=paper.net.dropout)
    return dataclasses.replace(paper, net=net, batch=settings.batch, steps=settings.steps,
                               evaluate_every=settings.evaluate_every)


def affine(predicted: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Rows of EDV, ESV, EF → EDV, ESV, 1."""
    return np.column_stack([predicted[:, :2], np.ones(len(predicted))])
