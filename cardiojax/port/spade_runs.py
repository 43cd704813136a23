"""NVlabs/SPADE state dicts ↔ run folders."""

import dataclasses
import re
from pathlib import Path

import numpy as np
from flax import nnx

from cardiojax.config import GauganNetConfig
from cardiojax.errors import InputError, RunError
from cardiojax.files import write_arrays
from cardiojax.models.gaugan import build_discriminator, build_generator, net_config, networks_of, split_net
from cardiojax.models.saved import flatten, opened, write_config
from cardiojax.nets.gaugan import UPSAMPLINGS, Upsamplings
from cardiojax.port import foreign
from cardiojax.port.spade import fill, to_nvlabs


def bring(source: Path, target: Path, discriminator: Path | None, upsamplings: Upsamplings) -> GauganNetConfig:
    """Write the run folder `target`. Raises InputError where the weights are no SPADE, or `target` is taken."""
    arrays = foreign.read(source)
    theirs = {part: {k.removeprefix(f"{part}/"): v for k, v in arrays.items() if k.startswith(f"{part}/")}
              for part in ("G", "D")}
    theirs["G"] = theirs["G"] or {k.removeprefix("module."): v for k, v in arrays.items()}
    if discriminator is not None:
        theirs["D"] = {k.removeprefix("module."): v for k, v in foreign.read(discriminator).items()}
    net = net_of(theirs["G"], theirs["D"], upsamplings, source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} is neither empty nor new")
    model = {}
    parts = [("generator", "G", build_generator)] + [("discriminator", "D", build_discriminator)] * bool(theirs["D"])
    for name, key, build in parts:
        module = nnx.eval_shape(lambda build=build: build(net, nnx.Rngs(0)))
        fill(module, theirs[key])
        _, model[name], model[f"{name}_stats"] = split_net(module)
    target.mkdir(parents=True, exist_ok=True)
    write_config(target, {
        "task": "gaugan", "preset": "ported", "config": {"net": dataclasses.asdict(net)},
        "labels": list(range(net.classes)), "seed": None, "data": {"training": f"NVlabs/SPADE weights {source.name}"},
        "parent": None})
    write_arrays(target / "model.npz", flatten(model))
    return net


def net_of(generator: dict[str, np.ndarray], discriminator: dict[str, np.ndarray], upsamplings: Upsamplings,
           source: Path) -> GauganNetConfig:
    """The settings that the tensors' shapes tell. Raises InputError, naming what is missing."""
    needed = ("fc.weight", "conv_img.weight", "head_0.norm_0.mlp_shared.0.weight")
    if missing := [n for n in needed if n not in generator]:
        raise InputError(f"{source} is no generator of NVlabs/SPADE: it lacks {missing[0]}")
    if generator["fc.weight"].ndim != 4:
        raise InputError(f"{source} is a generator with a style encoder (use_vae), which is not ported")
    if ("up_4.conv_0.weight_orig" in generator) != (upsamplings == "most"):
        raise InputError(f"{source} was not made with {upsamplings!r} upsamplings: only 'most' has a block up_4")
    width, classes = generator["fc.weight"].shape[:2]
    shapes = [v.shape for k, v in discriminator.items() if re.fullmatch(r"discriminator_\d\.model0\.0\.weight", k)]
    channels = generator["conv_img.weight"].shape[0]
    if shapes and shapes[0][1] != classes + channels:
        raise InputError(f"the discriminator sees {shapes[0][1]} channels, not {classes} labels + {channels}")
    return GauganNetConfig(
        size_px=2 ** UPSAMPLINGS[upsamplings] * 8, upsamplings=upsamplings, classes=classes, channels=channels,
        ngf=width // 16, hidden=generator["head_0.norm_0.mlp_shared.0.weight"].shape[0],
        norm="syncbatch" if "head_0.norm_0.param_free_norm.running_mean" in generator else "instance",
        ndf=shapes[0][0] if shapes else 64, scales=len(shapes) or 2)


def export(run: Path, target: Path):
    """A run's generator and discriminator as one NVlabs state dict, names below "G/" and "D/"."""
    settings, stored, _ = opened(run, "gaugan")
    net = net_config(settings["config"])
    if net.style:
        raise RunError(f"{run} has a style encoder, which has no equal in NVlabs' names at this size")
    model = networks_of(stored, net)
    arrays = {}
    for key, build, params, stats in (("G", build_generator, *model[:2]), ("D", build_discriminator, *model[2:])):
        if params is not None:
            module = nnx.eval_shape(lambda build=build: build(net, nnx.Rngs(0)))
            nnx.update(module, params, stats)
            arrays |= {f"{key}/{name}": array for name, array in to_nvlabs(module).items()}
    if target.suffix == ".npz":
        write_arrays(target, arrays)
    elif target.suffix in (".pth", ".pt"):
        try:
            import torch
        except ImportError:
            raise InputError(f"{target} needs PyTorch: pip install 'cardiojax[torch]'") from None
        torch.save({name: torch.tensor(array) for name, array in arrays.items()}, target)
    else:
        raise InputError(f"{target}: weights are written as .npz or .pth")
