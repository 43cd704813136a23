"""`cardiojax train sfera`: a run folder from a dataset."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from cardiojax.config import SFERA_PRESETS, Sfera
from cardiojax.errors import InputError
from cardiojax.train.parallel import Mode

PRESETS = {"sfera": SFERA_PRESETS}
Settings = Annotated[Sfera, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train SFERA on studies with known volumes. Where RUN holds a run already, it goes on from its last checkpoint.

    RUN gets config.json, checkpoints/, metrics.jsonl, tensorboard/ and model.npz, which `cardiojax.load(RUN)` opens.
    """

    data: str
    """Training studies, NAME:SPLIT[,NAME:SPLIT], for example kaggle_dsb:train."""
    data_dir: Path
    """Where `cardiojax build` has put the records."""
    run: Path
    """The run folder."""
    validation: str | None = None
    """Studies to watch; the `validation` split of the first dataset by default."""
    init: Path | None = None
    """A finished run whose weights and target scaling training starts from."""
    parallel: Mode = "jit"
    """How the step is spread over the devices."""
    seed: int = 0
    preset: str = "small"
    """Defaults of all settings below: paper (one GPU or more), small (2 CPU cores), tiny (tests)."""
    settings: Settings = dataclasses.field(default_factory=Sfera)


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in PRESETS:
        if argv and argv[0] in ("-h", "--help"):
            print("usage: cardiojax train sfera [options]     (cardiojax train sfera --help says more)")
            return 0
        raise InputError(f"train what? There is {', '.join(PRESETS)}")
    args = parse(argv[0], argv[1:])
    from cardiojax.train import sfera

    sfera.train(args.settings, preset=args.preset, training=args.data, validation=args.validation,
                data_dir=args.data_dir, run=args.run, init=args.init, seed=args.seed, mode=args.parallel)
    print(f"{args.run}: trained. Next: cardiojax evaluate --run {args.run} --data NAME:test "
          f"--data-dir {args.data_dir} --out DIR", file=sys.stderr)
    return 0


def parse(task: str, argv: list[str]) -> Train:
    """The preset is looked for first: it sets the defaults that the other flags change and --help shows."""
    preset = "small"
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            preset = argv[i + 1]
        elif word.startswith("--preset="):
            preset = word.removeprefix("--preset=")
    if preset not in PRESETS[task]:
        raise InputError(f"no preset '{preset}'; there are {', '.join(PRESETS[task])}")
    try:
        return tyro.cli(Train, args=argv, prog=f"cardiojax train {task}",
                        default=Train(data=tyro.MISSING, data_dir=tyro.MISSING, run=tyro.MISSING, preset=preset,
                                      settings=PRESETS[task][preset]), config=(tyro.conf.OmitArgPrefixes,))
    except ValueError as error:
        raise InputError(str(error)) from None
