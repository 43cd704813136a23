"""`cardiojax build NAME`: a dataset as TFDS records."""

import contextlib
import dataclasses
import logging
import os
import shutil
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from cardiojax.errors import InputError

log = logging.getLogger("cardiojax")

NEEDS_NO_SOURCE = ("phantom",)


@dataclasses.dataclass(frozen=True)
class Build:
    """Write a dataset as TFDS records (array_record) below DATA_DIR.

    The studies are read from SOURCE, which you have obtained yourself; where and how, the error says when SOURCE is
    left out. `tfds.builder(NAME, data_dir=DATA_DIR)` opens the result after `import data_builders`.
    Synthetic studies have settings of their own: `cardiojax build synthetic --help`.
    Every dropped slice or study is a line in the log, with its reason, also kept as DATA_DIR/NAME/build.log.
    """

    name: Positional[Literal["phantom", "acdc", "kaggle_dsb", "mnms", "ukbb"]]
    """Which dataset."""
    data_dir: Path
    """Where the records go."""
    source: Path | None = None
    """Folder of the dataset as it comes from its source."""
    config: str | None = None
    """Variant to build; all of the phantom's, "full" of the others, unless you name one ("trimmed", "image_centre")."""
    beam: str | None = None
    """Read the studies by Apache Beam's workers, its options as NAME=VALUE[,NAME=VALUE], for example
    runner=DirectRunner,direct_num_workers=8,direct_running_mode=multi_processing (`pip install 'cardiojax[beam]'`)."""
    overwrite: Annotated[bool, arg(aliases=["-f"])] = False
    """Build again where it is built already."""


def main(argv: list[str]) -> int:
    if argv[:1] == ["synthetic"]:
        from cardiojax.cli.build_synthetic import main as build_synthetic
        return build_synthetic(argv[1:])
    args = tyro.cli(Build, args=argv, prog="cardiojax build")
    import tensorflow_datasets as tfds

    import data_builders  # noqa: F401  registers the datasets

    options = None if args.beam is None else beam_options(args.beam)
    if options is not None and args.name in NEEDS_NO_SOURCE:
        raise InputError(f"{args.name} is made here, in a minute; --beam is for studies that are read")
    cls = tfds.builder_cls(args.name)
    known = [c.name for c in cls.BUILDER_CONFIGS]
    if args.config and args.config not in known:
        raise InputError(f"no variant '{args.config}' of {args.name}; there are {', '.join(known)}")
    if args.name not in NEEDS_NO_SOURCE:
        if args.source is None:
            raise InputError(f"build {args.name} needs --source. {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        if not args.source.is_dir() or not any(args.source.iterdir()):
            raise InputError(f"{args.source} is empty or no folder. {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    configs = [args.config] if args.config else known if args.name in NEEDS_NO_SOURCE else known[:1]
    failed = 0
    for config in configs:
        builder = tfds.builder(f"{args.name}/{config}", data_dir=args.data_dir)
        if args.overwrite and Path(builder.data_dir).exists():
            shutil.rmtree(builder.data_dir)
        failed += build(builder, args, options)
    return 1 if failed else 0


def beam_options(text: str):
    """Beam's pipeline options. Raises InputError where they are none, or there is no Beam."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise InputError("--beam needs Apache Beam: pip install 'cardiojax[beam]'") from None
    pairs = [part.partition("=") for part in filter(None, map(str.strip, text.split(",")))]
    if wrong := [name for name, equals, _ in pairs if not equals or not name]:
        raise InputError(f"--beam wants NAME=VALUE[,NAME=VALUE], not {wrong[0]!r}")
    return PipelineOptions([f"--{name}={value}" for name, _, value in pairs])


def build(builder, args: Build, beam=None) -> int:
    """Build one variant; the number of studies that failed, each named in the log."""
    import tensorflow_datasets as tfds

    if Path(builder.data_dir).exists():
        log.info("%s is built already in %s (--overwrite builds it again)", builder.info.full_name, builder.data_dir)
        return 0
    log_file = args.data_dir / args.name / "build.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    try:
        with quiet():
            builder.beam = beam is not None
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
                manual_dir=args.source, register_checksums=False, beam_options=beam))
            if builder.beam:
                builder.note_missing()
    finally:
        log.removeHandler(handler)
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(f"{builder.info.full_name}: " + ", ".join(
        f"{name} {s.num_examples}" for name, s in builder.info.splits.items()) + f" studies in {builder.data_dir}",
        soft_wrap=True)
    if builder.failures:
        console.print(f"{len(builder.failures)} studies left out: {', '.join(builder.failures)} "
                      f"(reasons in {log_file})", soft_wrap=True)
    return len(builder.failures)


@contextlib.contextmanager
def quiet():
    """TFDS prints its licence notes on stdout: keep them out of pipes."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
