"""Imports go one way: each layer imports only those above it in this list (README, "The map")."""

import ast
from pathlib import Path

import cardiojax

PACKAGE = Path(cardiojax.__file__).parent
LAYERS = ("errors", "files", "pages", "provenance", "machine", "units", "grid", "study", "config", "readers",
          "preparation", "phantom", "ops", "nets", "models", "data", "synthesis", "evaluate", "writers", "train",
          "experiment", "port", "bench", "cli")
LAZY = {"load": "models"}                  # what the package itself gives, and where it comes from


def imported(file: Path) -> set[str]:
    """The dotted names of what a file imports, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def imports(file: Path) -> set[str]:
    """The layers of this package among them."""
    parts = [name.split(".") for name in imported(file)]
    return {LAZY.get(layer, layer) for package, layer, *_ in (p for p in parts if len(p) > 1) if package == "cardiojax"}


def test_each_layer_imports_only_those_above_it():
    files = {file: file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in PACKAGE.rglob("*.py")
             if file.name not in ("__main__.py",) and file != PACKAGE / "__init__.py"}
    assert set(files.values()) == set(LAYERS)
    wrong = [f"{file.relative_to(PACKAGE)} imports {other}" for file, layer in files.items()
             for other in imports(file) & set(LAYERS)
             if LAYERS.index(other) > LAYERS.index(layer)]
    assert not wrong


def test_the_package_imports_no_builder():
    """They import it; it finds them by their entry points."""
    for file in PACKAGE.rglob("*.py"):
        assert not [name for name in imported(file) if name.split(".")[0] == "data_builders"], file
