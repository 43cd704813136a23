"""GauGAN: a generator of images from label maps, its optional style encoder, and a multiscale discriminator.

After NVlabs/SPADE (`models/networks/generator.py`, `encoder.py`, `discriminator.py`), with any number of channels and
one more, smaller, generator (`few`). Images are NHWC in [−1, 1]; label maps are (N, H, W) integers.
"""

import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Integer

from cardiojax.errors import InputError
from cardiojax.nets.draws import drawing, xavier
from cardiojax.nets.spade import LabelMap, Norm, Spade, SpectralConv, instance_norm, label_map
from cardiojax.ops.pooling import upsampled

Upsamplings = Literal["few", "normal", "more", "most"]
UPSAMPLINGS = {"few": 4, "normal": 5, "more": 6, "most": 7}
STYLE = 256                # length of the style latent


def leaky(x):
    return jax.nn.leaky_relu(x, 0.2)


def padded_px(size_px: int, upsamplings: Upsamplings) -> int:
    """The next size that the network allows: a multiple of 2^upsamplings."""
    step = 2 ** UPSAMPLINGS[upsamplings]
    return -(-size_px // step) * step


def sides(size_px: int, upsamplings: Upsamplings) -> list[int]:
    """Of the label maps that the blocks of a generator of `size_px` see, the smallest first."""
    return [size_px // 2**i for i in range(UPSAMPLINGS[upsamplings], -1, -1)]


def check_size(size_px: int, upsamplings: Upsamplings):
    """Raises InputError where the generator cannot make images of `size_px`."""
    step = 2 ** UPSAMPLINGS[upsamplings]
    if size_px < step or size_px % step:
        fit = sorted({max(size_px // step, 1) * step, padded_px(max(size_px, 1), upsamplings)})
        raise InputError(f"{UPSAMPLINGS[upsamplings]} upsamplings make images of multiples of {step} pixels, "
                         f"not {size_px}; {' or '.join(map(str, fit))} would do")


class SpadeBlock(nnx.Module):
    """x + two times SPADE → LeakyReLU → conv; where the channels change, the shortcut is SPADE → 1×1 conv."""

    def __init__(self, fin: int, fout: int, classes: int, hidden: int, norm: Norm, dtype, rngs: nnx.Rngs):
        middle = min(fin, fout)
        self.norm_0, self.norm_1 = (Spade(c, classes, hidden, norm, dtype, rngs) for c in (fin, middle))
        self.conv_0 = SpectralConv(fin, middle, 3, dtype, rngs, spectral=True)
        self.conv_1 = SpectralConv(middle, fout, 3, dtype, rngs, spectral=True)
        if fin != fout:
            self.norm_s = Spade(fin, classes, hidden, norm, dtype, rngs)
            self.conv_s = SpectralConv(fin, fout, 1, dtype, rngs, bias=False, spectral=True)
        else:
            self.norm_s = self.conv_s = None

    def __call__(self, x, label_map: LabelMap, train: bool, axis_name: str | None):
        h = self.conv_0(leaky(self.norm_0(x, label_map, train, axis_name)))
        h = self.conv_1(leaky(self.norm_1(h, label_map, train, axis_name)))
        if self.conv_s is not None and self.norm_s is not None:
            x = self.conv_s(self.norm_s(x, label_map, train, axis_name))
        return x + h


class Generator(nnx.Module):
    """Label maps → images. `style` adds the encoder of the variational autoencoder (and fixes the size).

    Raises InputError for a size that the upsamplings do not allow.
    """

    def __init__(self, *, size_px: int, classes: int = 4, channels: int = 1, ngf: int = 64,
                 upsamplings: Upsamplings = "normal", hidden: int = 128, norm: Norm = "syncbatch",
                 style: bool = False, dtype=jnp.float32, remat: bool = False, rngs: nnx.Rngs):
        check_size(size_px, upsamplings)
        self.classes, self.upsamplings, self.dtype, self.remat = classes, upsamplings, dtype, remat
        side = size_px // 2 ** UPSAMPLINGS[upsamplings]
        self.encoder = Encoder(size_px, channels, ngf, dtype, rngs) if style else None
        if style:
            self.fc = linear(STYLE, 16 * ngf * side**2, dtype, rngs)
        else:
            self.fc = SpectralConv(classes, 16 * ngf, 3, dtype, rngs)
        widths = [16 * ngf, 8 * ngf, 4 * ngf, 2 * ngf, ngf] + ([ngf // 2] if upsamplings == "most" else [])
        self.head, self.middle_0, self.middle_1, *up = (
            SpadeBlock(a, b, classes, hidden, norm, dtype, rngs)
            for a, b in [(widths[0], widths[0])] * 3 + list(itertools.pairwise(widths)))
        self.up = nnx.List(up)
        self.image = SpectralConv(widths[-1], channels, 3, dtype, rngs)

    def blocks(self) -> list[tuple[SpadeBlock, bool]]:
        """In order, each with whether its input is upsampled first."""
        return [(self.head, False), (self.middle_0, self.upsamplings != "few"),
                (self.middle_1, self.upsamplings in ("more", "most")), *((block, True) for block in self.up)]

    def label_maps(self, labels: Integer[Array, "n h w"], rows: dict[int, int] | None = None) -> dict[int, LabelMap]:
        """The label maps at the side of every block; made once, they serve several passes.

        rows: of the tables of γ and β, by side (`ops.lookup`); None leaves it to the platform.
        """
        return {s: label_map(labels, s, self.classes, None if rows is None else rows.get(s, 0))
                for s in sides(labels.shape[1], self.upsamplings)}

    def __call__(self, maps: dict[int, LabelMap], *, train: bool = False, style: Float[Array, "n 256"] | None = None,
                 axis_name: str | None = None) -> Float[Array, "n h w c"]:
        """maps: of `label_maps`, square and of an allowed size (with a style encoder: of `size_px`).

        In training, `power_iteration` goes before, and the running statistics move.
        """
        smallest = maps[min(maps)]
        n, side = smallest.labels.shape[:2]
        if self.encoder is not None:
            style = jnp.zeros((n, STYLE)) if style is None else style
            x = self.fc(style).reshape(n, side, side, -1)
        else:
            x = self.fc(smallest.one_hot(self.classes, self.dtype))
        call = nnx.remat(SpadeBlock.__call__, static_argnums=(3, 4)) if self.remat and train else SpadeBlock.__call__
        for block, up in self.blocks():
            x = upsampled(x) if up else x
            x = call(block, x, maps[x.shape[1]], train, axis_name)
        return jnp.tanh(self.image(leaky(x)).astype(jnp.float32))


def linear(fin: int, fout: int, dtype, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(fin, fout, dtype=dtype, rngs=rngs, kernel_init=drawing(xavier, rngs))


class Encoder(nnx.Module):
    """Image → mean and log variance of its style: 3×3 convs of stride 2 (spectral and instance norm) down to 5 pixels
    or fewer, whatever the size; the widths are 1, 2, 4, 8, 8… · ngf."""

    def __init__(self, size_px: int, channels: int, ngf: int, dtype, rngs: nnx.Rngs):
        widths, side = [channels], size_px
        while side > 5:
            widths.append(min(8 * ngf, widths[-1] * 2 if len(widths) > 1 else ngf))
            side = (side + 1) // 2
        self.convs = nnx.List([SpectralConv(a, b, 3, dtype, rngs, stride=2, pad=1, bias=False, spectral=True)
                               for a, b in itertools.pairwise(widths)])
        self.mean, self.log_variance = (linear(side * side * widths[-1], STYLE, dtype, rngs) for _ in range(2))

    def __call__(self, images: Float[Array, "n h w c"]) -> tuple[Float[Array, "n 256"], Float[Array, "n 256"]]:
        x = images
        for conv in self.convs:
            x = leaky(instance_norm(conv(x)))
        x = x.reshape(len(x), -1)
        return self.mean(x).astype(jnp.float32), self.log_variance(x).astype(jnp.float32)


class PatchDiscriminator(nnx.Module):
    """4×4 convs at one scale; a call gives the activations of all layers, the scores last."""

    def __init__(self, fin: int, ndf: int, dtype, rngs: nnx.Rngs):
        widths = [ndf, 2 * ndf, 4 * ndf, 8 * ndf]
        first = SpectralConv(fin, ndf, 4, dtype, rngs, stride=2, pad=2)
        inner = [SpectralConv(a, b, 4, dtype, rngs, stride=s, pad=2, bias=False, spectral=True)
                 for (a, b), s in zip(itertools.pairwise(widths), (2, 2, 1), strict=True)]
        self.convs = nnx.List([first, *inner])
        self.score = SpectralConv(widths[-1], 1, 4, dtype, rngs, pad=2)

    def __call__(self, x: Float[Array, "n h w c"]) -> list[Float[Array, "n p q o"]]:
        features = []
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = leaky(instance_norm(x) if i else x)
            features.append(x)
        return [*features, self.score(x).astype(jnp.float32)]


class Discriminator(nnx.Module):
    """Patch discriminators on the labels and image, each at half the scale of the one before."""

    def __init__(self, *, classes: int = 4, channels: int = 1, ndf: int = 64, scales: int = 2,
                 dtype=jnp.float32, rngs: nnx.Rngs):
        self.classes, self.dtype = classes, dtype
        self.scales = nnx.List([PatchDiscriminator(classes + channels, ndf, dtype, rngs)
                                for _ in range(scales)])

    def __call__(self, labels: Integer[Array, "n h w"], images: Float[Array, "n h w c"]
                 ) -> list[list[Float[Array, "n p q o"]]]:
        """Activations by scale and layer."""
        x = jnp.concatenate([jax.nn.one_hot(labels, self.classes, dtype=self.dtype), images.astype(self.dtype)], -1)
        out = []
        for scale in self.scales:
            out.append(scale(x))
            x = halved(x)
        return out


def halved(x: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
    """Mean over 3×3 pixels at stride 2, of the pixels inside the image."""
    def pooled(x):
        h, w = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows = x[:, :h:2] + x[:, 1:1 + h:2] + x[:, 2:2 + h:2]
        return rows[:, :, :w:2] + rows[:, :, 1:1 + w:2] + rows[:, :, 2:2 + w:2]

    return pooled(x) / pooled(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
