"""Two looks at every frame: studies → labels of every pixel, and areas from their probabilities.

The first U-Net sees a whole frame at 2 mm and finds the heart, the second 128 × 128 mm round it at 1 mm: enough for
both ventricles (112 × 112 mm round the left one cut an eighth off the right ones of ACDC). Areas are
sums of probabilities; no threshold and no rule by slice decides them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from cardiojax.config import ContoursNetConfig, jax_dtype
from cardiojax.nets.draws import rngs_of
from cardiojax.nets.unet import UNet
from cardiojax.ops.packing import map_real_slices
from cardiojax.preparation import SIZE_PX
from cardiojax.units import LABELS

COARSE_PX, FINE_PX = 80, 128               # 75 pixels of 2 mm, padded; pixels of 1 mm
BEFORE_PX = (COARSE_PX - SIZE_PX // 2) // 2     # black rows and columns before the 75
MARGIN_PX = FINE_PX // 2   # round an image, so that a crop may lie round any of its pixels
CPU_PART = 2               # slices, of all phases, whose activations fit a CPU's cache
NEVER = -1e4               # the logit of a label that is not taught
VIEWS = (0, 3, 4, 7, 1, 2, 5, 6)           # bits: rows flipped, columns flipped, transposed; any first few are diverse


class Seen(NamedTuple):
    """What is seen in the frames of a batch of studies, of T phases each.

    areas_mm2: (B, S, T, 4) of each label, by probability. unsure_mm2: Σ p (1 − p), which is large along blurred borders
        and where a whole region is in doubt. Both are 0 on padding.
    labels: (B, S, T, 150, 150) uint8, the likeliest of each pixel, background outside of 128 × 128 mm.
    centre_px: (B, 2) the heart's (row, column) from the image's centre.
    """

    areas_mm2: Array
    unsure_mm2: Array
    labels: Array
    centre_px: Array


def build_networks(net: ContoursNetConfig, rngs: nnx.Rngs, remat: bool = False) -> nnx.Dict:
    """The two U-Nets as one module."""
    common = {"channels": 1 + 2 * net.neighbours, "classes": len(LABELS), "halvings": net.halvings,
              "dtype": jax_dtype(net.dtype), "remat": remat, "rngs": rngs}
    return nnx.Dict(coarse=UNet(width=net.coarse_width, **common), fine=UNet(width=net.width, **common))


def new_networks(net: ContoursNetConfig, key: Array, remat: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Networks of random weights as graphdef, parameters and batch statistics."""
    graph, *states = nnx.split(build_networks(net, rngs_of(key), remat), nnx.Param, nnx.BatchStat)
    return graph, *jax.device_put(states)


@functools.cache
def network_shapes(net: ContoursNetConfig, remat: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The same with shapes for arrays, for weights that come from elsewhere."""
    return jax.eval_shape(functools.partial(new_networks, net, remat=remat), jax.random.key(0))


def limited_to(labels: tuple[int, ...], params: nnx.State) -> nnx.State:
    """The parameters of networks that see these labels alone: without it, one that no mask shows is as likely as the
    background everywhere."""
    params = jax.tree.map(lambda leaf: leaf, params)
    for network in params.values():
        bias = network["head"]["bias"]
        taught = jnp.isin(jnp.arange(len(LABELS)), jnp.array(labels))
        before = bias.get_value()
        bias.set_value(jnp.where(taught, jnp.where(before < NEVER / 2, 0.0, before), NEVER))
    return params


def as_images(frames: UInt8[Array, "b s h w t"], neighbours: int) -> UInt8[Array, "b s t h w c"]:
    """Prepared frames, with their neighbours as channels."""
    return with_neighbours(frames.transpose(0, 1, 4, 2, 3), neighbours)


def first_look(networks: nnx.Dict, images: UInt8[Array, "b s t 150 150 c"], n_slices: Int[Array, " b"], views: int
               ) -> Int[Array, "b 2"]:
    """Where the heart is: the pixel (row, column) of its centre from the image's, mean over slices and phases."""
    def see(images):
        n, t = images.shape[:2]
        small = padded_coarse(images.reshape(n * t, *images.shape[2:]) / 255.0)
        return heart(probabilities(networks["coarse"], small, views).reshape(n, t, COARSE_PX, COARSE_PX, -1))

    return heart_centre(map_real_slices(see, (images,), _real(images, n_slices), CPU_PART).sum(1))


def second_look(networks: nnx.Dict, images: UInt8[Array, "b s t 150 150 c"], n_slices: Int[Array, " b"],
                centre_px: Int[Array, "b 2"], views: int) -> Seen:
    """What is where in the 128 × 128 mm round `centre_px`, by probabilities averaged over so many exact views."""
    def see(images, centres):
        crops = jax.vmap(crop)(images / 255.0, centres)
        n, t = crops.shape[:2]
        p = probabilities(networks["fine"], crops.reshape(n * t, *crops.shape[2:]), views).reshape(*crops.shape[:4], -1)
        labels = jax.vmap(uncropped)(jnp.argmax(p, axis=-1).astype(jnp.uint8), centres)
        return p.sum((2, 3)), (p * (1 - p)).sum((2, 3)), labels

    real = _real(images, n_slices)
    centres = jnp.broadcast_to(centre_px[:, None], (*real.shape, 2))
    return Seen(*map_real_slices(see, (images, centres), real, CPU_PART), centre_px)


def _real(images: Array, n_slices: Int[Array, " b"]) -> Bool[Array, "b s"]:
    """Which slices are no padding."""
    return jnp.arange(images.shape[1]) < n_slices[:, None]


def with_neighbours(stack: Shaped[Array, "b s *n"], neighbours: int) -> Shaped[Array, "b s *n c"]:
    """Each slice between so many of its neighbours towards the base and towards the apex; black beyond the stack."""
    wide = jnp.pad(stack, [(0, 0), (neighbours, neighbours)] + [(0, 0)] * (stack.ndim - 2))
    return jnp.stack([wide[:, i:i + stack.shape[1]] for i in range(1 + 2 * neighbours)], axis=-1)


def halved_mean(images: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """The mean of each 2 × 2 pixels: 1 mm → 2 mm."""
    return (images[:, 0::2, 0::2] + images[:, 1::2, 0::2] + images[:, 0::2, 1::2] + images[:, 1::2, 1::2]) / 4


def padded_coarse(images: Float[Array, "n 150 150 c"]) -> Float[Array, "n 80 80 c"]:
    """At 2 mm, with black round it up to a size that the first network takes."""
    black = BEFORE_PX, COARSE_PX - SIZE_PX // 2 - BEFORE_PX
    return jnp.pad(halved_mean(images), ((0, 0), black, black, (0, 0)))


def heart(p: Float[Array, "n t h w 4"]) -> Float[Array, "n h w"]:
    """Both ventricles, by probability, of all phases together."""
    return p[..., 1:].sum((1, 4))


def heart_centre(seen: Float[Array, "b 80 80"]) -> Int[Array, "b 2"]:
    """The whole pixel of 1 mm next to the centre of what the first look took for `heart`; from the image's centre."""
    offset = COARSE_PX / 2 - SIZE_PX / 4 - BEFORE_PX           # `padded_coarse` moves the image's centre
    return jnp.round(2 * (jax.vmap(centroid)(seen) + offset)).astype(jnp.int32)


def centroid(weight: Float[Array, "h w"]) -> Float[Array, "2"]:
    """(row, column) from the image's centre; 0 where there is hardly any weight (less than a pixel's)."""
    rows, columns = (jnp.arange(n) - (n - 1) / 2 for n in weight.shape)
    total = weight.sum()
    found = jnp.stack([(weight.sum(1) * rows).sum(), (weight.sum(0) * columns).sum()]) / jnp.maximum(total, 1.0)
    return jnp.where(total >= 1, found, 0.0)


def probabilities(net: UNet, images: Float[Array, "n p p c"], views: int) -> Float[Array, "n p p 4"]:
    """Of each label, averaged over the first `views` exact views of each image."""
    def seen(images):
        return jax.nn.softmax(net(images, jnp.ones(len(images))))

    if views == 1:
        return seen(images)
    found = jax.lax.map(seen, jnp.stack([turned(images, view) for view in VIEWS[:views]]))      # one program for all
    return sum(turned(p, view, back=True) for view, p in zip(VIEWS, found, strict=False)) / views


def turned(images: Float[Array, "n p p c"], view: int, back: bool = False) -> Float[Array, "n p p c"]:
    """One of eight exact views of square images, or an image of that view turned back."""
    flips = [lambda x: x[:, ::-1]] * (view & 1) + [lambda x: x[:, :, ::-1]] * (view >> 1 & 1) + [
        lambda x: x.swapaxes(1, 2)] * (view >> 2 & 1)
    for flip in reversed(flips) if back else flips:
        images = flip(images)
    return images


def crop(images: Float[Array, "t 150 150 c"], centre_px: Int[Array, "2"]) -> Float[Array, "t 128 128 c"]:
    """128 × 128 pixels round `centre_px` (from the image's centre); black outside of the images."""
    wide = jnp.pad(images, ((0, 0), (MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0)))
    start = _corner(centre_px)
    return jax.lax.dynamic_slice(wide, (0, *start, 0), (len(images), FINE_PX, FINE_PX, images.shape[-1]))


def uncropped(labels: UInt8[Array, "t 128 128"], centre_px: Int[Array, "2"]) -> UInt8[Array, "t 150 150"]:
    """The labels of crops in the images they are from, background outside."""
    canvas = jnp.zeros((len(labels), *(SIZE_PX + 2 * MARGIN_PX,) * 2), labels.dtype)
    canvas = jax.lax.dynamic_update_slice(canvas, labels, (0, *_corner(centre_px)))
    return canvas[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]


def _corner(centre_px: Int[Array, "2"]) -> Int[Array, "2"]:
    """Of a crop, in images with a margin; a centre outside of the image is moved to its border."""
    return ((SIZE_PX - FINE_PX) // 2 + centre_px + MARGIN_PX).clip(0, SIZE_PX + 2 * MARGIN_PX - FINE_PX)
