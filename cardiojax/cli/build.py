"""`cardiojax build NAME`: a dataset as TFDS records."""

import contextlib
import dataclasses
import inspect
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from cardiojax.errors import InputError, one_line
from cardiojax.files import one_writer

log = logging.getLogger("cardiojax")

UNWRITTEN = re.compile(r"(?:open|write|close)\(\) failed: ([^;]*); (?:opening|writing|closing) ([^;]*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """Write a dataset as TFDS records (array_record) below DATA_DIR.

    The studies are read from SOURCE, which you have obtained yourself; where and how, the error says when SOURCE is
    left out. `cardiojax.data.open_split("NAME:SPLIT", DATA_DIR)` opens the result, and so does
    `tfds.builder(NAME, data_dir=DATA_DIR)` after the builder's import (`import data_builders` for ours).
    Synthetic studies have settings of their own: `cardiojax build synthetic --help`.
    Every dropped slice or study is a line in the log, with its reason, also kept as DATA_DIR/NAME/build.log; studies
    left out are rows of exclusions.csv beside the records too.
    """

    name: Positional[Annotated[str, arg(metavar="NAME", help_behavior_hint="")]] = ""
    """Which dataset."""
    data_dir: Path
    """Where the records go."""
    source: Path | None = None
    """Folder of the dataset as it comes from its source."""
    config: str | None = None
    """Variant to build; all of the phantom's, "full" of the others, unless you name one ("trimmed", "image_centre",
    or "paper": both, and at least 5 consecutive slices in training and validation)."""
    exclude: Path | None = None
    """File with the ids of studies to leave out of training and validation, a line each; the test split keeps all."""
    beam: str | None = None
    """Read the studies by Apache Beam's workers, its options as NAME=VALUE[,NAME=VALUE], for example
    runner=DirectRunner,direct_num_workers=8,direct_running_mode=multi_processing (`pip install 'cardiojax[beam]'`)."""
    overwrite: Annotated[bool, arg(aliases=["-f"])] = False
    """Build again where it is built already."""


def main(argv: list[str]) -> int:
    if argv[:1] == ["synthetic"]:
        from cardiojax.cli.build_synthetic import main as build_synthetic
        return build_synthetic(argv[1:])
    from cardiojax.data import builders

    classes = builders.builder_classes()
    if not argv or not argv[0].startswith("-"):          # the name first, before what else may be missing
        chosen("".join(argv[:1]), classes)
    args = tyro.cli(Build, args=argv, prog="cardiojax build",
                    description=f"{inspect.getdoc(Build)}\n\nDatasets: {', '.join(classes)}.")
    cls = chosen(args.name, classes)
    check(args, cls)
    options = None if args.beam is None else beam_options(args.beam)
    exclude = [] if args.exclude is None else study_ids(args.exclude)
    configs = [c.name for c in cls.BUILDER_CONFIGS]
    configs = [args.config] if args.config else configs[:1] if cls.needs_source else configs
    failed = 0
    for config in configs:
        builder = cls(config=config, data_dir=args.data_dir, exclude=exclude)
        if args.overwrite and Path(builder.data_dir).exists():
            shutil.rmtree(builder.data_dir)
        failed += build(builder, args, options)
    return 1 if failed else 0


def chosen(name: str, classes: dict[str, type]) -> type:
    """The builder of that name. Raises InputError, with those there are."""
    if name not in classes:
        problem = f"no dataset '{name}'; there are" if name else "build what? There are"
        raise InputError(f"{problem} {', '.join(classes)}")
    return classes[name]


def check(args: Build, cls: type):
    """Raises InputError where the arguments do not fit the builder."""
    known = [c.name for c in cls.BUILDER_CONFIGS]
    if args.config and args.config not in known:
        raise InputError(f"no variant '{args.config}' of {args.name}; there are {', '.join(known)}")
    if not cls.needs_source:
        if args.beam is not None or args.exclude is not None:
            raise InputError(f"{args.name} is made here; --beam and --exclude are for studies that are read")
    elif args.source is None:
        raise InputError(f"build {args.name} needs --source. {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    elif not args.source.is_dir() or not any(args.source.iterdir()):
        raise InputError(f"{args.source} is empty or no folder. {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")


def study_ids(file: Path) -> list[str]:
    """The ids of a list, a line each. Raises InputError where it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--exclude {file} cannot be read ({one_line(error)})") from None
    return [line.strip() for line in lines if line.strip()]


def beam_options(text: str):
    """Beam's pipeline options. Raises InputError where they are none, or there is no Beam."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("--beam needs Apache Beam: pip install 'cardiojax[beam]'") from None
    pairs = [part.partition("=") for part in filter(None, map(str.strip, text.split(",")))]
    if wrong := [name for name, equals, _ in pairs if not equals or not name]:
        raise InputError(f"--beam wants NAME=VALUE[,NAME=VALUE], not {wrong[0]!r}")
    return PipelineOptions([f"--{name}={value}" for name, _, value in pairs])


def build(builder, args: Build, beam=None) -> int:
    """Build one variant; the number of studies that failed, each named in the log."""
    if Path(builder.data_dir).exists():
        log.info("%s is built already in %s (--overwrite builds it again)", builder.info.full_name, builder.data_dir)
        return 0
    folder = args.data_dir / args.name
    folder.mkdir(parents=True, exist_ok=True)
    with one_writer(folder / f"{builder.builder_config.name}.lock",
                    f"another process is building {builder.info.full_name} in {args.data_dir}"):
        write_records(builder, args.source, folder / "build.log", beam)
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(f"{builder.info.full_name}: " + ", ".join(
        f"{name} {s.num_examples}" for name, s in builder.info.splits.items()) + f" studies in {builder.data_dir}",
        soft_wrap=True)
    if left_out := builder.left_out():
        console.print(f"{len(left_out)} studies left out: {', '.join(left_out)} "
                      f"(reasons in {Path(builder.data_dir) / 'exclusions.csv'})", soft_wrap=True)
    return len(builder.failures)


def write_records(builder, source: Path | None, log_file: Path, beam):
    """What TFDS writes, with its log. Raises InputError where the records cannot be written."""
    import tensorflow_datasets as tfds

    for left in Path(builder.data_dir).parent.glob("incomplete.*"):          # by processes that were killed
        shutil.rmtree(left)
    handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    try:
        with quiet():
            builder.beam = beam is not None
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
                manual_dir=source, register_checksums=False, beam_options=beam))
    except RuntimeError as error:                        # ArrayRecord's, of a full disk or a folder it may not write to
        if not (unwritten := UNWRITTEN.search(str(error))):
            raise
        raise InputError(f"{builder.info.full_name} cannot be written ({unwritten[1]}: {unwritten[2]}); with room for "
                         "it start the same command again") from None
    finally:
        log.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def quiet():
    """TFDS prints its licence notes on stdout: keep them out of pipes."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
