"""`cardiojax show RUN`: what a run folder is."""

import dataclasses
import json
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from cardiojax.errors import RunError
from cardiojax.models.saved import opened, read_config, read_metrics

ROWS = 8               # evaluations that are shown


@dataclasses.dataclass(frozen=True)
class Show:
    """Print what a run or model is: settings, data, versions, parents, size, checkpoints, evaluations."""

    run: Positional[Path]
    """A run folder, a file that `cardiojax export` wrote, or the name of a model that ships."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Show, args=argv, prog="cardiojax show")
    config = read_config(args.run) if args.run.is_dir() else opened(args.run).settings
    print(json.dumps(config, indent=2))
    print(f"parents: {' ← '.join(ancestors(args.run, config)) or 'none, trained from scratch'}")
    print(f"model: {size(args.run)}")
    steps = sorted(int(p.name) for p in (args.run / "checkpoints").glob("[0-9]*") if p.name.isdigit())
    print(f"checkpoints: step {', '.join(map(str, steps)) or 'none'}")
    lines = read_metrics(args.run)
    for kind in ("train", "validation"):
        last = next((line for line in reversed(lines) if line["kind"] == kind), None)
        if last:
            print(f"last {kind}: {json.dumps(last)}")
    if time := time_of(lines):
        print(f"time: {time}")
    evaluations = [line for line in lines if line["kind"] == "validation"]
    if evaluations:
        Console().print(table_of(evaluations))
    return 0


def ancestors(run: Path, config: dict) -> list[str]:
    """The runs that this one was finetuned from, the nearest first, as far as they can be followed."""
    found = []
    while (parent := config.get("parent")) and parent not in found:
        found.append(parent)
        try:
            config = read_config(Path(parent))
        except RunError:
            found[-1] += " (not here)"
            break
    return found


def time_of(lines: list[dict]) -> str:
    """What the training's time went into, by its last lines about the machine; empty where it has none yet."""
    def last(key: str) -> dict:
        return next((line for line in reversed(lines) if line["kind"] == "machine" and key in line), {})

    if not (pace := last("step_s")) or not pace["step_s"]:
        return ""
    found = [f"{pace['step_s']:.3g} s a step, {pace['per_s']:.4g} a second",
             f"{100 * pace['input_wait_share']:.1f} % of it waiting for input"]
    if seconds := last("evaluation_s").get("evaluation_s"):
        found.append(f"the last evaluation {seconds:.3g} s, as long as {seconds / pace['step_s']:.0f} steps")
    return ", ".join(found)


def size(run: Path) -> str:
    try:
        arrays = opened(run).arrays
    except RunError as error:
        return str(error)
    parts = {"params": "parameters", "generator": "parameters of the generator",
             "discriminator": "of the discriminator"}
    counts = {said: sum(a.size for name, a in arrays.items() if name.startswith(f"{part}/"))
              for part, said in parts.items()}
    return ", ".join([f"{n:,} {said}" for said, n in counts.items() if n]
                     + [f"{sum(a.nbytes for a in arrays.values()) / 1e6:.1f} MB"])


def table_of(evaluations: list[dict]) -> Table:
    """A row an evaluation, the last ones; columns as the newest has them."""
    columns = [c for c in evaluations[-1] if c not in ("kind", "time") and not c.endswith("_mean_predictor")][:9]
    table = Table(*columns, title="evaluations on validation")
    for line in evaluations[-ROWS:]:
        table.add_row(*(f"{line[c]:.4g}" if isinstance(line.get(c), int | float) else "" for c in columns))
    return table
