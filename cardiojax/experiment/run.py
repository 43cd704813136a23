"""The paper's experiment: does pretraining on synthetic studies of flat EF make volumes better?"""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path

from cardiojax import data
from cardiojax.errors import DataError
from cardiojax.experiment import report as experiment_report
from cardiojax.experiment.comparison import compare, masks_own, primary_endpoint
from cardiojax.experiment.config import ExperimentConfig
from cardiojax.experiment.folders import ready
from cardiojax.experiment.stages import ABLATIONS, Stages
from cardiojax.files import write_text
from cardiojax.provenance import commit

log = logging.getLogger("cardiojax")

Training = tuple[str, str, int]      # experiment, dataset, seed


def trainings(stages: Stages) -> dict[Training, Callable[[], Path]]:
    """What makes each training's run; what answers the question comes first."""
    config, datasets, seeds = stages.config, (stages.first, stages.second), range(stages.config.seeds)
    found: dict[Training, Callable[[], Path]] = {}

    def rso(dataset: str, seed: int):
        found.setdefault(("RSO", dataset, seed), lambda: stages.rso(dataset, seed))

    def sso(name: str, dataset: str):
        found.setdefault((label("SSO", name), dataset, 0), lambda: stages.sso(stages.cohort(name)))

    def rsp(name: str, dataset: str, seed: int):
        found.setdefault((label("RSP", name), dataset, seed),
                         lambda: stages.rsp(stages.cohort(name), dataset, seed))

    rso(stages.first, 0)
    for name in ("warp", "uniform") if config.ablations else ("uniform",):
        sso(name, stages.first)
        rsp(name, stages.first, 0)
    for seed in seeds:
        for dataset in datasets:
            rso(dataset, seed)
            found["RSO-long", dataset, seed] = functools.partial(stages.long, dataset, seed)
            rsp("uniform", dataset, seed)
    found |= {("RSA", dataset, seed): functools.partial(stages.rsa, seed) for seed in seeds for dataset in datasets}
    for name in ("uniform", *(ABLATIONS if config.ablations else ())):
        for dataset in datasets:
            sso(name, dataset)
            for seed in seeds if name == "warp" else range(1):
                rsp(name, dataset, seed)
    return found


def label(experiment: str, cohort: str) -> str:
    return experiment if cohort == "uniform" else f"{experiment}-{cohort}"


def measured(stages: Stages, training: Training, make: Callable[[], Path]) -> tuple[Path, dict[str, dict]]:
    """A training's run, and its metrics by split."""
    run = make()
    return run, {name: stages.evaluated(run, split) for name, split in judged_on(stages, training).items()}


def judged_on(stages: Stages, training: Training) -> dict[str, data.Split]:
    """The dataset's test studies and, of a pretraining, its own validation studies."""
    experiment, dataset, _ = training
    found = {"test": stages.splits[f"{dataset}:test"]}
    if experiment.startswith("SSO"):
        found["synthetic"] = stages.cohorts[experiment.partition("-")[2] or "uniform"]["validation"]
    return found


def run(config: ExperimentConfig, *, preset: str, first: str, second: str, data_dir: Path, out: Path, make: bool = True
        ) -> dict:
    """All stages, evaluated; the metrics so far are in OUT/experiment.json after each of them, at the end also the
    comparisons, and report.html, table1.csv and figures/ beside it. With `make` False: of the stages that are there.

    Raises DataError where a dataset is not there, or (`make` False) no training is finished.
    """
    stages = Stages(config, preset, first, second, data_dir, out, make)
    found: dict[str, dict[str, dict[int, dict]]] = {first: {}, second: {}}
    synthetic = {}
    result = {"settings": {"preset": preset, "first": first, "second": second, "commit": commit(),
                           "config": dataclasses.asdict(config)}}
    cells = {t: functools.partial(measured, stages, t, make) for t, make in trainings(stages).items()}
    for (experiment, dataset, seed), (path, metrics) in ready(cells):
        where = {"seed": seed, "run": str(path.relative_to(stages.out)), "updates": stages.updates(experiment)}
        found[dataset].setdefault(experiment, {})[seed] = metrics["test"] | where
        if "synthetic" in metrics:
            synthetic[experiment] = metrics["synthetic"] | where
        result |= {"datasets": {d: {e: [by[s] for s in sorted(by)] for e, by in es.items()}
                                for d, es in found.items() if es},
                   "synthetic_validation": synthetic, "stages": stages.paths}
        write_text(stages.out / "experiment.json", json.dumps(result, indent=2))
        log.info("%s, %s, seed %d: EF RMSE %.1f", experiment, dataset, seed,
                 metrics["test"]["ef"]["rmse"])
    if "datasets" not in result:
        raise DataError(f"no training of the experiment is finished in {out}")
    result["comparisons"] = compare(stages.out, result["datasets"])
    result["primary_endpoint"] = primary_endpoint(first, result["comparisons"])
    result["masks_own"] = {d: masks_own(stages.splits[f"{d}:train"], stages.splits[f"{d}:test"])
                           for d in result["datasets"]}
    write_text(stages.out / "experiment.json", json.dumps(result, indent=2))
    with stages.locked(stages.out / "report", wait=True):
        experiment_report.write(stages.out, result, stages.splits, stages.cohorts)
    return result
