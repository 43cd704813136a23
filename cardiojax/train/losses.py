"""Training losses, as equations on arrays."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float

PERCEPTUAL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)       # of the five depths, shallow first

Features = Sequence[Sequence[Float[Array, "n ..."]]]          # of a discriminator, by scale and layer; scores last


def masked_rmse(predicted: Float[Array, "..."], target: Float[Array, "..."], weight: Float[Array, "..."],
                axis_name: str | None = None) -> Float[Array, ""]:
    """√( Σ w (p − t)² / Σ w ), the paper's RMSE loss over what is real; 0 where nothing is.

    Under pmap the sums run over all replicas (`axis_name`), and the root is taken after.
    """
    weight = jnp.broadcast_to(weight, predicted.shape)
    squared = jnp.where(weight > 0, predicted - jnp.where(weight > 0, target, 0.0), 0.0) ** 2
    total, count = (weight * squared).sum(), weight.sum()
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    mean = total / jnp.maximum(count, 1.0)
    return jnp.sqrt(jnp.maximum(mean, 1e-12)) * (count > 0)


def relative_error(predicted: Float[Array, "..."], target: Float[Array, "..."], axis_name: str | None = None
                   ) -> Float[Array, ""]:
    """Σ |p − t| / Σ t, of the whole batch; under `axis_name` over all replicas."""
    sums = jnp.abs(predicted - target).sum(), target.sum()
    error, total = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    return error / jnp.maximum(total, 1.0)


def l1(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, ""]:
    """mean |a − b|"""
    return jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def hinge_discriminator(real: Features, fake: Features) -> Float[Array, ""]:
    """mean over scales of: mean max(0, 1 − D(real)) + mean max(0, 1 + D(fake)). NVlabs `GANLoss`, without a ½."""
    return sum(jax.nn.relu(1 - r[-1]).mean() + jax.nn.relu(1 + f[-1]).mean()
               for r, f in zip(real, fake, strict=True)) / len(real)


def hinge_generator(fake: Features) -> Float[Array, ""]:
    """mean over scales of: −mean D(fake)."""
    return -sum(f[-1].mean() for f in fake) / len(fake)


def feature_matching(fake: Features, real: Features) -> Float[Array, ""]:
    """Σ over scales and inner layers of L1(fake, real), the real side detached, over the number of scales."""
    return sum(l1(f, stop_gradient(r)) for fs, rs in zip(fake, real, strict=True)
               for f, r in zip(fs[:-1], rs[:-1], strict=True)) / len(fake)


def perceptual(fake: Sequence[Array], real: Sequence[Array]) -> Float[Array, ""]:
    """Σ over depths of weight · L1(fake, real), the real side detached. NVlabs `VGGLoss`."""
    return sum(w * l1(f, stop_gradient(r)) for w, f, r in
               zip(PERCEPTUAL_WEIGHTS[-len(fake):], fake, real, strict=True))


def kl_divergence(mean: Float[Array, "n z"], log_variance: Float[Array, "n z"]) -> Float[Array, ""]:
    """−½ Σ (1 + ln σ² − μ² − σ²): of a style from the standard normal, summed over the batch too. `KLDLoss`."""
    return -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum()


def known_log_probabilities(logits: Float[Array, "n h w c"], known: Bool[Array, "n c"]) -> Float[Array, "n h w c"]:
    """log p of the labels that a frame's mask knows; those that it does not know count as background, for that is what
    the mask calls them (marginal probabilities: Fang and Yan 2020, Shi et al. 2021). 0 for the unknown ones.

    known: whether each frame's mask knows each label; the background, label 0, it always knows.
    """
    known = known[:, None, None, :]
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    background = jnp.arange(logits.shape[-1]) == 0
    other = jax.nn.logsumexp(logits, axis=-1, keepdims=True, where=~known | background)
    return jnp.where(background, other - total, jnp.where(known, logits - total, 0.0))


def segmentation(logits: Float[Array, "n h w c"], target: Float[Array, "n h w c"], known: Bool[Array, "n c"],
                 lv: int, area_weight: float, axis_name: str | None = None
                 ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Cross-entropy + (1 − mean soft Dice) + `area_weight` · relative error of the LV's area, of the whole batch.

    target: each label's share of a pixel, in the labels that the frame's mask knows. The Dice of a label is one ratio
    over all frames that know it, and the mean is of the labels but the background that any frame knows. The area error
    is Σ |Σ p − Σ t| / Σ t over the frames, `lv` being the LV's label. Under `axis_name` all sums run over the replicas.
    """
    log_p = known_log_probabilities(logits, known)
    p = jnp.exp(log_p) * known[:, None, None, :]
    areas, true_areas = p.sum((1, 2)), target.sum((1, 2))                                      # (n, c), pixels
    sums = {"entropy": -(target * log_p).sum(), "pixels": jnp.float32(target[..., 0].size),
            "overlap": (p * target).sum((0, 1, 2)), "sizes": ((areas + true_areas) * known).sum(0),
            "seen": known.sum(0).astype(jnp.float32),
            "area_error": jnp.abs(areas[:, lv] - true_areas[:, lv]).sum(), "area": true_areas[:, lv].sum()}
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    entropy = sums["entropy"] / sums["pixels"]
    seen = (sums["seen"] > 0).at[0].set(False)
    dice = (2 * sums["overlap"] + 1) / (sums["sizes"] + 1)                 # + 1 pixel: a label that is nowhere is found
    mean_dice = jnp.where(seen, dice, 0.0).sum() / jnp.maximum(seen.sum(), 1)
    area = sums["area_error"] / jnp.maximum(sums["area"], 1.0)
    return entropy + 1 - mean_dice + area_weight * area, {"cross_entropy": entropy, "dice": mean_dice,
                                                          "area_error": area}
