"""Masks → images, by a trained or ported GauGAN."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Integer, UInt8

from cardiojax.config import GauganNetConfig, jax_dtype
from cardiojax.errors import InputError, RunError
from cardiojax.files import write_arrays
from cardiojax.models.phases import joined
from cardiojax.models.saved import flatten, into_state, opened
from cardiojax.nets.draws import rngs_of
from cardiojax.nets.gaugan import STYLE, Discriminator, Generator, padded_px, sides
from cardiojax.nets.spade import missing_rows
from cardiojax.ops import devices, lookup
from cardiojax.ops.flops import flops, platform_of
from cardiojax.preparation import SIZE_PX
from cardiojax.preparation.batch import double, halve_mask, single_frames
from cardiojax.units import LABELS

REMOVED_SETTINGS = ("sparse",)     # settings of earlier runs that do not change what a network computes
BATCH = 16                 # images a call: a multiple of 16 masks, or the next power of two below


def build_generator(net: GauganNetConfig, rngs: nnx.Rngs, remat: bool = False) -> Generator:
    return Generator(size_px=padded_px(net.size_px, net.upsamplings), classes=net.joined_classes,
                     channels=net.joined_channels, ngf=net.ngf, upsamplings=net.upsamplings, hidden=net.hidden,
                     norm=net.norm, style=net.style, dtype=jax_dtype(net.dtype), remat=remat, rngs=rngs)


def build_discriminator(net: GauganNetConfig, rngs: nnx.Rngs) -> Discriminator:
    return Discriminator(classes=net.joined_classes, channels=net.joined_channels, ndf=net.ndf, scales=net.scales,
                         dtype=jax_dtype(net.dtype), rngs=rngs)


def split_net(net: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Graphdef, parameters, statistics."""
    return nnx.split(net, nnx.Param, nnx.BatchStat)


def new_networks(net: GauganNetConfig, key: Array) -> tuple[nnx.State, nnx.State, nnx.State, nnx.State]:
    """Random parameters and first statistics of a generator, and of a discriminator."""
    generator_key, discriminator_key = jax.random.split(key)
    return jax.device_put((*split_net(build_generator(net, rngs_of(generator_key)))[1:],
                           *split_net(build_discriminator(net, rngs_of(discriminator_key)))[1:]))


def padded(array: Array | np.ndarray, size_px: int, mode: str) -> Array:
    """(B, H, W, …) padded about its centre to `size_px`."""
    low = (size_px - array.shape[1]) // 2
    high = size_px - array.shape[1] - low
    return jnp.pad(array, [(0, 0), (low, high), (low, high)] + [(0, 0)] * (array.ndim - 3), mode=mode)


class GauganModel:
    """A trained generator as a value: network and labels, its arrays on the device.

    `apply` is pure and batched; `generate` takes masks of any size. See `cardiojax.load`.
    """

    def __init__(self, net: GauganNetConfig, labels: tuple[int, ...], params: nnx.State, stats: nnx.State,
                 path: Path | None = None, settings: dict | None = None, *, table: bool | None = None):
        """labels: those that the generator has learned; path, settings: the run it comes from; table: γ and β from
        tables of fixed size (`ops.lookup`); None: where that is fastest."""
        self.table = lookup.is_fastest() if table is None else table
        self.net, self.labels, self.path, self.settings = net, labels, path, settings or {}
        self.params, self.stats = jax.device_put((params, stats))
        self._weights = tuple(jax.tree.leaves((self.params, self.stats)))

    @classmethod
    def load(cls, path: str | Path) -> "GauganModel":
        """As `cardiojax.load`. Raises RunError where it is no GauGAN run, has no model yet or does not fit."""
        return cls.from_arrays(*opened(path, "gaugan"))

    @classmethod
    def from_arrays(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> "GauganModel":
        """Of a run's config.json and the arrays of its model.npz. Raises RunError where they do not fit."""
        net = net_config(settings["config"])
        params, stats, *_ = networks_of(arrays, net)
        return cls(net, tuple(settings["labels"]), params, stats, path, settings)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of its arrays by the names that model.npz has."""
        return flatten({"generator": self.params, "generator_stats": self.stats})

    def save(self, file: Path):
        """Write model.npz, whole or not at all."""
        write_arrays(file, self.arrays())

    def on(self, device: Any) -> "GauganModel":
        """The same model with its arrays on `device`, a jax.Device."""
        there = jax.device_put((self.params, self.stats), device)
        return GauganModel(self.net, self.labels, *there, self.path, self.settings, table=self.table)

    @functools.cached_property
    def replicas(self) -> list["GauganModel"]:
        """The same model on each of this process's accelerators; where there are not several, this one."""
        return [self.on(device) for device in devices.accelerators()] or [self]

    def apply(self, masks: Integer[Array | np.ndarray, "n h w *p"],
              styles: Float[Array | np.ndarray, "n 256"] | None = None) -> Float[Array, "n h w c"]:
        """Images in [−1, 1] of masks of an allowed size (of a run of two phases, of pairs of them), in one call to the
        device; the result stays there."""
        styles = jnp.zeros((len(masks), STYLE)) if styles is None else styles
        return _generate(self.net, self.table, self._weights, masks, styles)

    def flops(self, masks: Integer[Array | np.ndarray, "n h w *p"]) -> float:
        """Of one `apply`."""
        traced = _generate.trace(self.net, self.table, self._weights, masks, jnp.zeros((len(masks), STYLE)))
        return flops(traced.jaxpr, platform_of(jax.devices()[0]))

    def generate(self, masks: np.ndarray, style: np.ndarray | None = None) -> Float[np.ndarray, "n h w *c"]:
        """Images in [−1, 1] of label masks (N, H, W), of the same size; one channel has no axis of its own. A run of
        two phases (`net.phases`) takes ED and ES together, (N, H, W, 2), and gives both.

        Masks are taken at the run's pixel size (its `size_px`: 150 is 1 mm, 75 is 2 mm), padded with background to
        a size that the network allows, and the images cropped back; only those of the records' 150 × 150 pixels are
        halved for a run of 75, and their images doubled. A style encoder fixes the size to the run's own.
        An image depends on its own mask alone. Batches of masks go to all accelerators of this process by turns.
        style: (N, 256), a run's with a style encoder (see `styles`); its mean, zero, by default.
        Raises InputError for labels that the generator never saw, and for sizes that it cannot make.
        """
        masks = self._checked(masks)
        if style is not None and (not self.net.style or np.shape(style) != (len(masks), STYLE)):
            raise InputError(f"a style is ({len(masks)}, {STYLE}) for these masks, and of a run with a style encoder")
        if self.net.size_px * 2 == SIZE_PX and masks.shape[1:3] == (SIZE_PX, SIZE_PX):
            halves = halve_mask(np.moveaxis(masks, (1, 2), (-2, -1)))
            return double(self.generate(np.moveaxis(halves, (-2, -1), (1, 2)), style))
        n, h, w = masks.shape[:3]
        side = padded_px(max(h, w), self.net.upsamplings)
        if self.net.style and side != padded_px(self.net.size_px, self.net.upsamplings):
            raise InputError(f"this generator has a style encoder, which fixes its size to {self.net.size_px} pixels; "
                             f"the masks have {h} × {w}")
        low = (side - h) // 2, (side - w) // 2
        square = np.pad(masks, ((0, 0), (low[0], side - h - low[0]), (low[1], side - w - low[1]),
                                *[(0, 0)] * (masks.ndim - 3)))
        styles = np.zeros((n, STYLE), np.float32) if style is None else np.asarray(style, np.float32)
        out = np.empty((n, h, w, self.net.joined_channels), np.float32)
        batch = min(BATCH, 1 << (n - 1).bit_length()) if n else 1

        def painted(which: int, at: int) -> Array:
            indices = np.minimum(np.arange(at, at + batch), n - 1)       # the last batch is filled up with copies
            return self.replicas[which].apply(square[indices], styles[indices])

        starts = range(0, n, batch)
        made = devices.fetched(devices.by_turns(painted, starts, len(self.replicas)))
        for at, images in zip(starts, made, strict=True):
            out[at:at + batch] = images[:n - at, low[0]:low[0] + h, low[1]:low[1] + w]
        axes = [size for size in (self.net.phases, self.net.channels) if size > 1]
        return out.reshape(n, h, w, *axes)

    def gray(self, masks: np.ndarray, style: np.ndarray | None = None) -> Float[np.ndarray, "n h w *p"]:
        """As `generate`, in the masks' own shape: the mean of several channels."""
        images = self.generate(masks, style)
        return images if images.ndim == np.ndim(masks) else images.mean(-1)

    def stacks(self, masks: Sequence[Integer[np.ndarray, "_ h w 2"]], style: Float[np.ndarray, "n 256"] | None = None
               ) -> list[Float[np.ndarray, "_ h w 2"]]:
        """Images of the ED and ES masks of several studies, made together; `style`: one for each study."""
        flat = np.concatenate([single_frames(m) if self.net.phases == 1 else m for m in masks])
        ends = np.cumsum([len(m) for m in masks])[:-1]
        gray = self.gray(flat, None if style is None else np.repeat(style, [2 * len(m) for m in masks], axis=0))
        if self.net.phases == 1:
            gray = np.moveaxis(gray.reshape(-1, 2, *gray.shape[1:]), 1, -1)
        return np.split(gray, ends)

    def styles(self, images: np.ndarray) -> Float[np.ndarray, "n 256"]:
        """Mean styles of (N, H, W) images in [−1, 1] of `size_px`, for `generate`. Raises InputError for others."""
        if not self.net.style:
            raise InputError("this generator has no style encoder (train it with --style)")
        if np.shape(images)[1:] != (self.net.size_px, self.net.size_px):
            raise InputError(f"styles are read from images of {self.net.size_px} pixels, not {np.shape(images)[1:]}")
        channels = np.repeat(np.asarray(images, np.float32)[..., None], self.net.channels, axis=-1)
        return np.asarray(_encode(self.net, self._weights, padded(
            channels, padded_px(self.net.size_px, self.net.upsamplings), "reflect")))

    def _checked(self, masks) -> Integer[np.ndarray, "n h w *p"]:
        masks = np.asarray(masks)
        pairs = (2,) if self.net.phases == 2 else ()
        if masks.shape[3:] != pairs or 0 in masks.shape[1:] or not np.issubdtype(masks.dtype, np.integer) or (
                masks.ndim < 3):
            raise InputError(f"masks are whole numbers in (N, H, W{', 2' if pairs else ''}), not {masks.dtype} in "
                             f"{masks.shape}")
        if unknown := sorted(set(np.unique(masks).tolist()) - set(self.labels)):
            raise InputError(f"the masks hold label {', '.join(map(_name, unknown))}, which this generator never saw; "
                             f"it knows {', '.join(map(_name, self.labels))}")
        return masks


def to_uint8(images: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """[−1, 1] → the records' 0–255."""
    return ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def _name(label: int) -> str:
    return f"{label} ({LABELS[label]})" if 0 <= label < len(LABELS) else str(label)


@functools.cache
def generator_shapes(net: GauganNetConfig) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A generator as graphdef and shapes, for weights that come from elsewhere."""
    return split_net(nnx.eval_shape(lambda: build_generator(net, nnx.Rngs(0))))


def _merged(net: GauganNetConfig, weights: tuple[Array, ...]) -> Generator:
    graph, *shapes = generator_shapes(net)
    return nnx.merge(graph, *jax.tree.unflatten(jax.tree.structure(tuple(shapes)), weights), copy=True)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(net: GauganNetConfig, table: bool, weights: tuple[Array, ...], masks, styles):
    """With `table` from tables, unless these masks hold more neighbourhoods than hearts do."""
    masks = joined(masks, net)
    rows = _table_rows(net, *masks.shape[:2]) if table else None

    def images(maps):
        return _merged(net, weights)(maps, style=styles)

    generator = _merged(net, weights)
    maps = generator.label_maps(masks, rows)
    if (missing := missing_rows(maps)) is None:
        return images(maps)
    return jax.lax.cond(missing > 0, lambda: images(generator.label_maps(masks, {})), lambda: images(maps))


def _table_rows(net: GauganNetConfig, n: int, side: int) -> dict[int, int]:
    """Rows of the tables for `n` masks: about twice what 16 of ACDC's take. Fewer masks share fewer neighbourhoods."""
    return {s: n * s * s // (32 if s >= 128 else 12) for s in sides(side, net.upsamplings) if s >= 64 and n >= 8}


@functools.partial(jax.jit, static_argnums=0)
def _encode(net: GauganNetConfig, weights: tuple[Array, ...], images):
    encoder = _merged(net, weights).encoder
    assert encoder is not None                           # `styles` has refused a network without one
    return encoder(images)[0]


def networks_of(arrays: dict[str, np.ndarray], net: GauganNetConfig
                ) -> tuple[nnx.State, nnx.State, nnx.State | None, nnx.State | None]:
    """Generator and, where the run has one, discriminator: parameters and statistics of each."""
    _, params, stats = generator_shapes(net)
    generator = into_state(params, arrays, "generator"), into_state(stats, arrays, "generator_stats")
    if not any(name.startswith("discriminator/") for name in arrays):
        return *generator, None, None
    _, params, stats = split_net(nnx.eval_shape(lambda: build_discriminator(net, nnx.Rngs(0))))
    return (*generator, into_state(params, arrays, "discriminator"),
            into_state(stats, arrays, "discriminator_stats"))


def net_config(config: dict) -> GauganNetConfig:
    """The network's settings out of config.json. Raises RunError where this version does not know or allow one."""
    try:
        return GauganNetConfig(**{k: v for k, v in config["net"].items() if k not in REMOVED_SETTINGS})
    except (TypeError, KeyError, ValueError) as error:
        raise RunError(f"the run's settings are not this version's ({error})") from None
