"""`cardiojax show RUN`: what a run folder is."""

import dataclasses
import json
from pathlib import Path

import tyro
from tyro.conf import Positional

from cardiojax.train.run import read_config


@dataclasses.dataclass(frozen=True)
class Show:
    """Print a run's settings, data, versions and last figures."""

    run: Positional[Path]


def main(argv: list[str]) -> int:
    args = tyro.cli(Show, args=argv, prog="cardiojax show")
    print(json.dumps(read_config(args.run), indent=2))
    metrics = args.run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    for kind in ("train", "validation"):
        last = next((line for line in reversed(lines) if line["kind"] == kind), None)
        if last:
            print(f"last {kind}: {json.dumps(last)}")
    return 0
