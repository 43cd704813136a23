"""`cardiojax models`: what ships."""

import dataclasses

import tyro
from rich.console import Console
from rich.table import Column, Table


@dataclasses.dataclass(frozen=True)
class Models:
    """List the models that come with the package. `predict`, `evaluate` and `cardiojax.load` take them by name."""


def main(argv: list[str]) -> int:
    tyro.cli(Models, args=argv, prog="cardiojax models")
    from cardiojax.models.shipped import DEFAULT, FOLDER, index

    table = Table(Column("name", no_wrap=True), "what it does", "trained on", "held-out EF error (MAE, points)", "MB",
                  "licence")
    for name, entry in index().items():
        size = sum((FOLDER / index()[n]["file"]).stat().st_size for n in (name, *entry.get("parts", {}).values()))
        table.add_row(name, entry["does"], entry["data"],
                      f"{entry['figures']['ef_mae_points']:.1f} ({entry['figures']['on']})", f"{size / 1e6:.1f}",
                      entry["licence"])
    Console().print(table)
    print(f"{DEFAULT} measures where no other is named. A card for each: docs/models/NAME.md. Not medical devices.")
    return 0
