"""`cardiojax export`: a run folder → one file to give away."""

import dataclasses
import hashlib
from pathlib import Path

import tyro
from tyro.conf import Positional

from cardiojax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run's model as one file: safetensors with its settings, no code and no data in it.

    `cardiojax.load(FILE)` opens it, and every flag that takes a run takes it too. On the Hugging Face hub it is
    hf://OWNER/REPOSITORY/FILE. Say beside it what data it learnt from: their licence may bind it.
    """

    run: Positional[Path]
    """A finished run folder."""
    file: Positional[Path]
    """To write, NAME.safetensors."""
    half: bool = False
    """Weights in half precision: half of the size, volumes the same to a tenth of a millilitre or so."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Export, args=argv, prog="cardiojax export")
    from cardiojax.models.one_file import ENDING, write_one_file
    from cardiojax.models.saved import opened

    if args.file.suffix != ENDING:
        raise InputError(f"{args.file} does not end in {ENDING}")
    settings, arrays, _ = opened(args.run)
    args.file.parent.mkdir(parents=True, exist_ok=True)
    write_one_file(args.file, settings, arrays, args.half)
    content = args.file.read_bytes()
    print(f"{args.file}: {len(content) / 1e6:.1f} MB, sha256 {hashlib.sha256(content).hexdigest()}")
    return 0
