"""Quality of synthetic images: distances in feature space, likeness to held-out pairs, and volume fidelity."""

import functools
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import linalg

from cardiojax.data import Split
from cardiojax.errors import DataError
from cardiojax.evaluate.metrics import MEASURES, agreement, ssim, with_ef
from cardiojax.models import perceptual
from cardiojax.models.gaugan import GauganModel, to_uint8
from cardiojax.models.sfera import SferaModel
from cardiojax.nets import vgg
from cardiojax.preparation import SIZE_PX
from cardiojax.preparation.batch import padded_slices
from cardiojax.study import Study
from cardiojax.synthesis.consistency import background_difference

log = logging.getLogger("cardiojax")

LPIPS_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)      # LPIPS's own scaling of [−1, 1]
BATCH = 8


class Judge:
    """Measures generators on held-out studies with masks, by a SFERA trained on real images (and by VGG16, where its
    weights are there)."""

    def __init__(self, run: Path | SferaModel, split: Split):
        """Raises RunError, DataError where the run or the split cannot judge."""
        self.sfera = run if isinstance(run, SferaModel) else SferaModel.load(run)
        self.studies = [s for s in split if s.masks is not None]
        if len(self.studies) < 2:
            raise DataError(f"{split.name} has {len(self.studies)} studies with masks; a judgement needs two or more")
        self.split = split
        self.real_volumes, self.real_features = self._seen(self.studies)
        self.real_background = background_difference(self.studies)
        self.vgg = None
        if perceptual.weights_file("vgg16").exists():
            self.vgg = perceptual.read_vgg("vgg16")
        else:
            log.warning("no VGG16 weights at hand: judged without LPIPS and VGG distances (see `cardiojax port vgg`)")

    def judge(self, generator: GauganModel) -> dict:
        """frechet, kernel (SFERA features), lpips, ssim, volume_fidelity, background_change (between ED and ES, outside
        of the heart); with VGG16 also frechet_vgg16, kernel_vgg16.

        None where VGG16's or LPIPS's weights are missing.
        """
        fakes = [synthetic(s, generator) for s in self.studies]
        volumes, features = self._seen(fakes)
        real, fake = (np.concatenate([s.frames.transpose(0, 3, 1, 2).reshape(-1, *s.frames.shape[1:3])
                                      for s in studies]) / 127.5 - 1 for studies in (self.studies, fakes))
        if generator.net.size_px * 2 == SIZE_PX:            # compared at the pixels that were made
            real, fake = _binned(real), _binned(fake)
        result = {"frechet": frechet(self.real_features, features), "kernel": kernel(self.real_features, features),
                  "lpips": None, "ssim": float(np.mean([ssim(a, b) for a, b in zip(fake, real, strict=True)])),
                  "volume_fidelity": {name: {k: v for k, v in agreement(volumes[:, i], self.real_volumes[:, i]).items()
                                             if k in ("r", "rmse", "bias")} for i, name in enumerate(MEASURES)},
                  "background_change": {"synthetic": background_difference(fakes), "real": self.real_background}}
        if self.vgg is not None:
            distance, seen_real, seen_fake = _through_vgg(self.vgg, real, fake)
            result |= {"lpips": distance, "frechet_vgg16": frechet(seen_real, seen_fake),
                       "kernel_vgg16": kernel(seen_real, seen_fake)}
        return result

    def flat(self, generator: GauganModel) -> dict[str, float]:
        """The figures in one level, to watch while training."""
        result = self.judge(generator)
        fidelity = result.pop("volume_fidelity")
        result["background_change"] = result["background_change"]["synthetic"]
        return {k: v for k, v in result.items() if v is not None} | {
            f"{name}_{k}": fidelity[name][k] for name in MEASURES for k in ("r", "rmse")}

    def _seen(self, studies: list[Study]) -> tuple[np.ndarray, np.ndarray]:
        """Predicted (EDV, ESV, EF) of each study, and the encoder's features of each slice."""
        p, volumes, features = self.sfera, [], []
        slices = padded_slices(map(len, studies))
        for at in range(0, len(studies), BATCH):
            part = studies[at:at + BATCH]
            batch = p.batch_of(part, fill_to=BATCH, slices=slices)
            volumes += np.asarray(p.apply(batch).mean_ml, np.float64)[:len(part)].tolist()
            encoded = np.asarray(_encoded(p.graph, p.params, p.stats, batch.frames))
            features += [encoded[i, :len(s)] for i, s in enumerate(part)]
        return with_ef(np.array(volumes)), np.concatenate(features).astype(np.float64)


def _through_vgg(arrays: dict[str, np.ndarray], real: np.ndarray, fake: np.ndarray
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


def synthetic(study: Study, generator: GauganModel) -> Study:
    """The same study with images made from its masks."""
    return study.replace(frames=to_uint8(generator.stacks([study.masks])[0]))


def _binned(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), images.shape[1] // 2, 2, images.shape[2] // 2, 2).mean((2, 4))


@functools.partial(jax.jit, static_argnums=0)
def _encoded(graph, params, stats, frames):
    net = nnx.merge(graph, params, stats, copy=True)
    b, s, h, w, c = frames.shape
    return net.encode(frames.reshape(b * s, h, w, c) / 255.0, jnp.ones(b * s), False).reshape(b, s, -1)


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
    def k(x, y):
        return (x @ y.T / x.shape[1] + 1)**3

    def within(x):
        gram, n = k(x, x), len(x)
        return (gram.sum() - np.trace(gram)) / (n * (n - 1))

    return float(within(a) + within(b) - 2 * k(a, b).mean())
