"""`cardiojax combine`: contours and a SFERA as one model."""

import dataclasses
import sys
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Combine:
    """Put a contours run and a SFERA run together as a hybrid: one estimate with deviations, and a study is referred
    where both disagree. The shares are fitted on studies that neither was trained on.

    RUN gets config.json and a model.npz with both models in it, which `cardiojax.load(RUN)` opens, and `evaluate` and
    `predict` take.
    """

    contours: Path
    """A finished contours run."""
    sfera: Path
    """A finished SFERA run."""
    data: str
    """Studies to fit on, NAME:SPLIT[,NAME:SPLIT], for example acdc:validation."""
    data_dir: Path
    """Where `cardiojax build` has put the records."""
    run: Path
    """The new run folder."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Combine, args=argv, prog="cardiojax combine")
    from cardiojax.train.hybrid import combine
    combine(args.contours, args.sfera, args.data, args.data_dir, args.run)
    print(f"{args.run}: ready. Next: cardiojax evaluate --run {args.run} --data NAME:test --data-dir {args.data_dir} "
          "--out DIR", file=sys.stderr)
    return 0
