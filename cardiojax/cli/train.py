"""`cardiojax train {sfera,contours,gaugan}`: a run folder from a dataset."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from cardiojax.cli.presets import with_preset
from cardiojax.config import (
    CONTOURS_PRESETS,
    GAUGAN_PRESETS,
    SFERA_PRESETS,
    ContoursConfig,
    GauganConfig,
    SferaConfig,
)
from cardiojax.errors import InputError
from cardiojax.train.parallel import StepOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """What all tasks ask for."""

    data: str
    """Training studies, NAME:SPLIT[,NAME:SPLIT], for example kaggle_dsb:train."""
    data_dir: Path
    """Where `cardiojax build` has put the records."""
    run: Path
    """The run folder."""
    validation: str | None = None
    """Studies to validate on; by default the `validation` split of every dataset of --data."""
    init: Path | None = None
    """A finished run, or a model that ships, whose weights training starts from (a SFERA's target scaling too)."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes that train together. Under SLURM (srun) and Open MPI they find each
    other by themselves; `cardiojax local` starts several on one machine."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Which one this is, from 0."""
    join_timeout: float = 300.0
    """Seconds that it waits for the others."""
    step: Annotated[StepOptions, tyro.conf.arg(name="")] = dataclasses.field(default_factory=StepOptions)
    seed: int = 0
    preset: str = "small"
    """Defaults of all settings below: paper (what the paper says and no more), large (our best at its size, one
    GPU or more), small (the same for 2 CPU cores), tiny (tests). docs/presets.md compares them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSfera(Train):
    """Train SFERA on studies with known volumes. Where RUN holds a run already, it goes on from its last checkpoint.

    RUN gets config.json, checkpoints/, metrics.jsonl, tensorboard/ and model.npz, which `cardiojax.load(RUN)` opens.
    """

    settings: Annotated[SferaConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SferaConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainContours(Train):
    """Train contours on the ED and ES frames of studies with masks: they label LV, myocardium and RV, measure volumes
    by areas, and find ED and ES of whole cines. Masks that show the LV alone teach too. Where RUN holds a run already,
    it goes on from its last checkpoint.

    RUN gets config.json, checkpoints/, metrics.jsonl, tensorboard/ and model.npz, which `cardiojax.load(RUN)` opens.
    """

    settings: Annotated[ContoursConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ContoursConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainGaugan(Train):
    """Train a GauGAN on the ED and ES frames of studies with masks: it makes images of masks, and only with labels
    that it saw. Where RUN holds a run already, it goes on from its last checkpoint.

    RUN gets config.json, checkpoints/, metrics.jsonl, tensorboard/, samples/ (mask, synthetic and real image of
    held-out frames) and model.npz, which `cardiojax.load(RUN)` opens.
    """

    judge: Path | None = None
    """A run trained on real images (SFERA, contours or a hybrid): every evaluation then measures the held-out studies
    through it. Not by one that teaches (--contours, --perceptual), which would judge itself: a warning says so."""
    settings: Annotated[GauganConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=GauganConfig)


TASKS = {"sfera": (TrainSfera, SFERA_PRESETS), "contours": (TrainContours, CONTOURS_PRESETS),
         "gaugan": (TrainGaugan, GAUGAN_PRESETS)}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in TASKS:
        if argv and argv[0] in ("-h", "--help"):
            print(f"usage: cardiojax train {{{','.join(TASKS)}}} [options]     (cardiojax train TASK --help says more)")
            return 0
        raise InputError(f"train what? There is {', '.join(TASKS)}")
    args = parse(argv[0], argv[1:])
    import jax

    from cardiojax.train.hosts import join
    if args.step.topology:
        if not args.step.dry_run:
            raise InputError("--topology names chips that are compiled for, with --dry-run")
        jax.config.update("jax_platforms", "cpu")                # what traces the step; no TPU is looked for
    join(args.coordinator, args.processes, args.process, args.join_timeout)
    common = {"preset": args.preset, "training": args.data, "validation": args.validation, "data_dir": args.data_dir,
              "run": args.run, "init": args.init, "seed": args.seed, "options": args.step}
    if isinstance(args, TrainGaugan):
        from cardiojax.train import gaugan
        gaugan.train(args.settings, judge=args.judge, **common)
    elif isinstance(args, TrainContours):
        from cardiojax.train import contours
        contours.train(args.settings, **common)
    else:
        from cardiojax.train import sfera
        sfera.train(args.settings, **common)
    judge = " --judge RUN" if isinstance(args, TrainGaugan) else ""
    if jax.process_index() == 0 and not args.step.dry_run:
        print(f"{args.run}: trained. Next: cardiojax evaluate --run {args.run} --data NAME:test "
              f"--data-dir {args.data_dir} --out DIR{judge}", file=sys.stderr)
    return 0


def parse(task: str, argv: list[str]) -> TrainSfera | TrainContours | TrainGaugan:
    kind, presets = TASKS[task]
    return with_preset(kind, presets, argv, f"cardiojax train {task}",
                       (tyro.conf.OmitArgPrefixes,))
