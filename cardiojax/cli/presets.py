"""Presets on the command line."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import tyro

from cardiojax.errors import InputError

Verb = TypeVar("Verb")


def with_preset(verb: type[Verb], presets: Mapping[str, object], argv: Sequence[str], prog: str, config: Sequence = ()
                ) -> Verb:
    """The arguments of a verb (a dataclass with `preset` and `settings`); `config` is tyro's. The preset is looked for
    first: it sets the defaults that the other flags change and --help shows. Raises InputError where a value is not
    possible."""
    preset = "small"
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            preset = argv[i + 1]
        elif word.startswith("--preset="):
            preset = word.removeprefix("--preset=")
    if preset not in presets:
        raise InputError(f"no preset '{preset}'; there are {', '.join(presets)}")
    required = {field.name: tyro.MISSING for field in dataclasses.fields(verb)     # pyright: ignore[reportArgumentType]
                if field.default is field.default_factory is dataclasses.MISSING}
    try:
        return tyro.cli(verb, args=argv, prog=prog, config=config,
                        default=verb(**required, preset=preset, settings=presets[preset]))
    except ValueError as error:
        raise InputError(str(error)) from None
