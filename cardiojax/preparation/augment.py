"""Keyed augmentation on the device: one transform a study, the same for all slices and both frames."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Shaped, UInt8

from cardiojax.config import AffineConfig, AugmentConfig
from cardiojax.preparation import SIZE_PX
from cardiojax.units import LABELS


def study_keys(key: Array, count: int, first=0) -> Array:
    """A key for each of `count` studies of a batch, the first of which is number `first` of the whole batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def augment(keys: Array, frames: UInt8[Array, "b s h w t"], n_slices: Int[Array, " b"],
            volumes: Float[Array, "b t"], areas: Float[Array, "b s t"], config: AugmentConfig
            ) -> tuple[Float[Array, "b s h w t"], Float[Array, "b t"], Float[Array, "b s t"]]:
    """Frames in [0, 1], with volumes and areas scaled by s² where the image is scaled by s.

    keys: one a study (`study_keys`); what happens to a study depends on its key and itself alone.
    """
    return jax.vmap(_augment_study, in_axes=(0, 0, 0, 0, 0, None))(keys, frames, n_slices, volumes, areas, config)


def _augment_study(key, frames, n, volumes, areas, config: AugmentConfig):
    k = jax.random.split(key, 9)
    reverse = jax.random.bernoulli(k[0]) & config.reverse
    frames, areas = reverse_slices(frames, n, reverse), reverse_slices(areas, n, reverse)
    place = _placement(k[1:5], config, frames.shape[1])
    scale, moved = place[2], affine(frames, *place)
    return _recoloured(k[5:8], moved, config.intensity), volumes * scale**2, areas * scale**2


def augment_frames(keys: Array, images: UInt8[Array, "b h w *p"], masks: UInt8[Array, "b h w *p"], config: AffineConfig
                   ) -> tuple[Float[Array, "b h w *p"], Int[Array, "b h w *p"]]:
    """Single images or pairs, in [0, 1], moved together with their masks; mirrored into what a move uncovers.

    A pixel of the moved mask gets the label with the largest share of it.
    """
    return jax.vmap(_augment_frame, in_axes=(0, 0, 0, None))(keys, images, masks, config)


def _augment_frame(key, image, mask, config: AffineConfig):
    place = _placement(jax.random.split(key, 4), config, len(image))
    planes = jnp.concatenate([image[..., None] / 255.0, jax.nn.one_hot(mask, len(LABELS))], axis=-1)
    moved = affine(255.0 * planes.reshape(1, *image.shape[:2], -1), *place, reflect=True).reshape(planes.shape)
    return moved[..., 0], jnp.argmax(moved[..., 1:], axis=-1)


def labelled_planes(images: UInt8[Array, "b h w c"], masks: UInt8[Array, "b h w"]) -> Float[Array, "b h w c2"]:
    """Images in [0, 1], and the shares of LV, myocardium and RV: what `augment_labelled` moves together."""
    return jnp.concatenate([images / 255.0, jax.nn.one_hot(masks, len(LABELS))[..., 1:]], axis=-1)


def augment_labelled(keys: Array, planes: Float[Array, "b h w c"], centre_px: Float[Array, "b 2"], size_px: int,
                     config: AugmentConfig) -> tuple[Float[Array, "b p p c2"], Float[Array, "b p p 4"]]:
    """A square of `size_px` round each frame's `centre_px` (row, column from the image's centre), moved at random:
    images in [0, 1] and each label's share of a pixel. Outside of the frame is black background."""
    return jax.vmap(_augment_labelled, in_axes=(0, 0, 0, None, None))(keys, planes, centre_px, size_px, config)


def _augment_labelled(key, planes, centre_px, size_px: int, config: AugmentConfig):
    k = jax.random.split(key, 7)
    angle, mirror, scale, shift = _placement(k[:4], config, len(planes))
    moved = affine(255.0 * planes[None], angle, mirror, scale, shift + centre_px, size_px=size_px)[0]
    images, labels = moved[..., :1 - len(LABELS)], moved[..., 1 - len(LABELS):]
    shares = jnp.concatenate([1 - labels.sum(-1, keepdims=True), labels], axis=-1)
    return _recoloured(k[4:], images, config.intensity), shares


def _recoloured(k, images: Array, intensity: float) -> Array:
    """Random gamma, contrast and brightness of images in [0, 1]."""
    gamma, contrast = (jnp.exp(_uniform(k[i], intensity)) for i in (0, 1))
    return jnp.clip((images**gamma - 0.5) * contrast + 0.5 + _uniform(k[2], intensity / 2), 0.0, 1.0)


def _uniform(key, bound):
    return jax.random.uniform(key, minval=-bound, maxval=bound)


def _placement(k, config: AffineConfig, size_px: int):
    """Random angle (radians), mirror (±1), scale and shift (pixels), as `affine` takes them."""
    scale = jnp.exp(_uniform(k[0], jnp.log1p(config.scale)))
    mirror = jnp.where(jax.random.bernoulli(k[1]) & config.flip, -1.0, 1.0)
    angle = jnp.deg2rad(_uniform(k[2], config.rotation_deg))
    shift = jax.random.uniform(k[3], (2,), minval=-1, maxval=1) * config.shift_mm * size_px / SIZE_PX
    return angle, mirror, scale, shift


def reverse_slices(stack: Array, n: Int[Array, ""], reverse) -> Array:
    """The first `n` slices in reverse order where `reverse`, the padding where it was."""
    at = jnp.arange(stack.shape[0])
    return jnp.take(stack, jnp.where(reverse & (at < n), n - 1 - at, at), axis=0)


def affine(frames: Array, angle, mirror, scale, shift, reflect: bool = False, size_px: int | None = None
           ) -> Float[Array, "s p q c"]:
    """Rotate by `angle` (radians), mirror (±1), scale and shift (pixels) about the centre: bilinear; 0–255 to 0–1.

    frames: (S, H, W, C). Outside of them is 0, or their reflection. size_px: of a square about the shifted centre, in
    place of the frames' own size.
    """
    h, w = frames.shape[1:3]
    p, q = (h, w) if size_px is None else (size_px, size_px)
    rows, cols = jnp.meshgrid(jnp.arange(p) - (p - 1) / 2, jnp.arange(q) - (q - 1) / 2, indexing="ij")
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    y = cos * rows - sin * cols + (h - 1) / 2 + shift[0]
    x = mirror * (sin * rows + cos * cols) + (w - 1) / 2 + shift[1]

    def sampled(plane):
        return map_coordinates(plane, (y, x), order=1, mode="mirror" if reflect else "constant")

    return jax.vmap(jax.vmap(sampled, in_axes=-1, out_axes=-1))(frames.astype(jnp.float32)) / 255.0


def view(frames: Shaped[Array, "b s h w 2"], n_slices: Int[Array, " b"], which: int) -> Shaped[Array, "b s h w 2"]:
    """One of 16 exact views of a study: quarter turns, mirrored, slices reversed. 0 is the study itself.

    Views 0–7 mix all three, so that any first few of them are diverse.
    """
    turns, reverse, mirror = which & 3, bool(which & 1) ^ bool(which >> 3 & 1), bool(which >> 2 & 1)
    if reverse:
        frames = jax.vmap(reverse_slices, in_axes=(0, 0, None))(frames, n_slices, True)
    if mirror:
        frames = frames[:, :, :, ::-1]
    return jnp.rot90(frames, turns, axes=(2, 3))
