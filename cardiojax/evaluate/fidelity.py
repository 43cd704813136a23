"""Distances of synthetic from real images in feature space, and likeness of pairs."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from cardiojax.nets import vgg

LPIPS_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)      # LPIPS's own scaling of [−1, 1]
BATCH = 8


def through_vgg(arrays: dict[str, np.ndarray], real: np.ndarray, fake: np.ndarray
                 ) -> tuple[float | None, np.ndarray, np.ndarray]:
    """Mean LPIPS of the pairs (where its layers came with the weights), and VGG16's pooled features of both."""
    weights = {k: jnp.asarray(v) for k, v in arrays.items()}
    distances, seen = [], []
    for at in range(0, len(real), BATCH):
        which = np.minimum(np.arange(at, at + BATCH), len(real) - 1)
        d, a, b = (np.asarray(x)[:len(real) - at] for x in lpips(weights, real[which], fake[which]))
        distances.append(d)
        seen.append((a, b))
    a, b = (np.concatenate(s).astype(np.float64) for s in zip(*seen, strict=True))
    return float(np.concatenate(distances).mean()) if "lpips/0" in weights else None, a, b


@jax.jit
def lpips(weights, a, b):
    """LPIPS of pairs of (N, H, W) images in [−1, 1] (Zhang et al. 2018, VGG16), and pooled relu5_3 of each."""
    def seen(x):
        x = (vgg.rgb(x[..., None]) - jnp.array(SHIFT)) / jnp.array(SCALE)
        return vgg.activations(weights, x, LPIPS_LAYERS)

    def unit(x):
        return x / (jnp.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)

    seen_a, seen_b = seen(a), seen(b)
    total = sum((((unit(p) - unit(q))**2) @ weights.get(f"lpips/{i}", jnp.zeros(p.shape[-1]))).mean((1, 2))
                for i, (p, q) in enumerate(zip(seen_a, seen_b, strict=True)))
    return total, seen_a[-1].mean((1, 2)), seen_b[-1].mean((1, 2))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½) of features in rows (Heusel et al. 2017)."""
    mean = ((a.mean(0) - b.mean(0))**2).sum()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root_a = _root(cov_a)
    return float(mean + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(_root(root_a @ cov_b @ root_a)))


def _root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy with (x·y/d + 1)³, unbiased (Bińkowski et al. 2018)."""
    from sklearn.metrics.pairwise import polynomial_kernel  # some seconds, which no training waits for at its start

    def within(x):
        gram, n = polynomial_kernel(x), len(x)
        return (gram.sum() - np.trace(gram)) / (n * (n - 1))

    return float(within(a) + within(b) - 2 * polynomial_kernel(a, b).mean())
