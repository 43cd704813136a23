"""`cardiojax build synthetic`: a cohort of synthetic studies from real masks and a GauGAN run."""

import collections
import dataclasses
import re
import shutil
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import arg

from cardiojax.cli.shares import Process, Processes, how_many, own_number, take_part
from cardiojax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildSynthetic:
    """Make synthetic studies: masks of real patients, changed to other ejection fractions, painted by a GauGAN.

    Each patient gives 35 candidates (ES or ED replaced by a mask between them; ES shrunk and ED grown); those with an
    EF in [10, 80] % are drawn from so that the EF histogram is the one asked for. Descendants stay in their patient's
    split and name their ancestor. The records go to DATA_DIR/synthetic/CONFIG and open as `synthetic/CONFIG:train`
    (`synthetic:train` is `synthetic/uniform:train`), with cohort.json beside them: counts, flatness, every member.

    Killed at any moment and started again it goes on; on CPU it ends in the same bytes. Many processes share a build:
    start the same command on each, with --processes N and --process 0 … N − 1, on a common file system.
    """

    gaugan: Path | None = None
    """The GauGAN run that paints the masks."""
    warp: bool = False
    """No generator: warp the real images along the change of their masks, the control of what a GauGAN adds."""
    from_: Annotated[str, arg(name="from")]
    """Real studies with masks, NAME:SPLIT[,NAME:SPLIT], for example acdc:train,acdc:validation."""
    data_dir: Path
    """Where the real records are, and the synthetic ones go."""
    size: int | None = None
    """Studies in all; as many as the distribution allows by default. The grid of candidates grows where it must."""
    distribution: str = "uniform"
    """Of the EF over [10, 80] %: uniform; as:NAME, a real dataset's; low, two thirds below 40 %; all, the pool."""
    consistency: Literal["none", "background", "style"] = "none"
    """What ED and ES share beyond the paper: nothing; their background (the mean of both, away from the heart); or the
    style of the real ancestor, read by a GauGAN trained with --style."""
    seed: int = 0
    config: str | None = None
    """Name of the cohort; that of its distribution by default."""
    figures: Path | None = None
    """Folder for the paper's Figs. 1 to 3 of this cohort."""
    process: Process = dataclasses.field(default_factory=own_number)
    """Which of the processes this is, from 0."""
    processes: Processes = dataclasses.field(default_factory=how_many)
    """How many processes share the work."""
    overwrite: Annotated[bool, arg(aliases=["-f"])] = False
    """Make the cohort anew where there is one."""


def main(argv: list[str]) -> int:
    args = tyro.cli(BuildSynthetic, args=argv, prog="cardiojax build synthetic")
    if args.size is not None and args.size < 1:
        raise InputError(f"--size must be at least 1, not {args.size}")
    if args.overwrite and args.processes > 1:
        raise InputError("--overwrite is for one process: each of several would remove what the others have made")
    config = args.config or re.sub(r"\W+", "_", args.distribution)
    if not re.fullmatch(r"\w+", config):
        raise InputError(f"--config is a name of letters, digits and underscores, not {config!r}")
    take_part(args.process, args.processes)
    from cardiojax import load
    from cardiojax.data import open_split
    from cardiojax.models.gaugan import GauganModel
    from cardiojax.synthesis import build

    if (args.gaugan is None) != args.warp or (args.warp and args.consistency != "none"):
        raise InputError("name the generator with --gaugan RUN, or none with --warp (which needs no --consistency)")
    generator = None if args.warp else load(args.gaugan)
    if not args.warp and not isinstance(generator, GauganModel):
        raise InputError(f"{args.gaugan} is a SFERA run; --gaugan wants one that paints")
    splits = {name: open_split(spec, args.data_dir, need_volumes=False) for name, spec in by_split(args.from_).items()}
    folder = args.data_dir / build.NAME / config / build.VERSION
    if args.overwrite and folder.exists():
        shutil.rmtree(folder)
    cohort = build.build_cohort(generator, splits, folder, build.CohortSettings(
        args.distribution, args.size, args.seed, args.consistency),
        lambda name: real_ef(name, args.data_dir), args.process, args.processes)
    console = Console(stderr=True, highlight=False, emoji=False)
    for split, figures in cohort["splits"].items():
        console.print(f"synthetic/{config}:{split}: {figures['candidates']} candidates, {figures['with_ef_in_10_80']} "
                      f"with EF in [10, 80] %, {figures['kept']} kept, of {figures['patients']} patients; largest "
                      f"deviation of a bin {100 * figures['largest_bin_deviation']:.1f} %, KS distance "
                      f"{figures['ks_distance']:.3f}", soft_wrap=True)
    if args.figures is not None and build.is_whole(folder):
        from cardiojax.evaluate import cohort_figures
        cohort_figures.draw(splits, {name: open_split(f"synthetic/{config}:{name}", args.data_dir) for name in splits},
                            args.figures)
        console.print(f"figures: {args.figures}", soft_wrap=True)
    return 0


def by_split(spec: str) -> dict[str, str]:
    """"a:train,b:train[:50%],a:validation" → the sources of each split. Raises InputError."""
    found = collections.defaultdict(list)
    for part in filter(None, map(str.strip, spec.split(","))):
        name, colon, split = part.partition(":")
        if not colon or not name or not split:
            raise InputError(f"--from wants NAME:SPLIT[,NAME:SPLIT], for example acdc:train, not {spec!r}")
        found[split.partition("[")[0]].append(part)
    return {split: ",".join(parts) for split, parts in found.items()}


def real_ef(name: str, data_dir: Path):
    """EF (percent) of the studies of NAME[:SPLIT], of its training split by default."""
    from cardiojax.data import open_split
    from cardiojax.units import ef_percent

    volumes = open_split(name if ":" in name else f"{name}:train", data_dir).volumes_ml
    return ef_percent(volumes[:, 0], volumes[:, 1])
