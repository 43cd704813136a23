"""A generator on held-out studies: how its images look, what volumes are read from them, which masks are found."""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cardiojax.data import Split, sample_of
from cardiojax.errors import DataError
from cardiojax.evaluate.fidelity import frechet, kernel, through_vgg
from cardiojax.evaluate.metrics import MEASURES, agreement, ssim, with_ef
from cardiojax.evaluate.overlap import DiceSum
from cardiojax.models import HybridModel, SferaModel, load_measuring, perceptual
from cardiojax.models.gaugan import GauganModel, to_uint8
from cardiojax.models.measuring import MeasuringModel
from cardiojax.preparation import SIZE_PX
from cardiojax.preparation.batch import padded_slices, single_frames
from cardiojax.study import Study
from cardiojax.synthesis.consistency import background_difference, slice_difference

log = logging.getLogger("cardiojax")

BATCH = 8
SAMPLED_STUDIES = 64


def warn_of_a_teacher(config: Mapping[str, Any], judge: str | Path):
    """One line where a generator of these settings was trained to please its judge. judge: a run, or a model's name."""
    teachers = (config.get(name, "none").removeprefix("sfera:") for name in ("contours", "perceptual"))
    if any(Path(teacher).resolve() == Path(judge).resolve() for teacher in teachers):
        log.warning("%s teaches this generator, and will think well of it: judge by a network of another seed", judge)


class Judge:
    """Measures generators on held-out studies with masks, by a model trained on real images (and by VGG16, where its
    weights are there). A SFERA reads volumes and compares its features; contours read volumes and say whether they find
    the mask that was painted; a hybrid does both."""

    def __init__(self, run: Path | MeasuringModel, split: Split):
        """Raises RunError, DataError where the run or the split cannot judge."""
        self.model = run if isinstance(run, MeasuringModel) else load_measuring(run)
        self.sfera = self.model.sfera if isinstance(self.model, HybridModel) else (
            self.model if isinstance(self.model, SferaModel) else None)
        self.studies = [s for s in split if s.masks is not None]
        if len(self.studies) < 2:
            raise DataError(f"{split.name} has {len(self.studies)} studies with masks; a judgement needs two or more")
        self.split = split
        self.painted = with_ef(np.array([s.volumes_from_masks_ml() for s in self.studies]))
        self.real_volumes, self.real_dice = self._read(self.studies)
        self.real_features = self._features(self.studies)
        self.real_background = background_difference(self.studies)
        self.real_slices = slice_difference(self.studies)
        self.vgg = None
        if perceptual.weights_file("vgg16").exists():
            self.vgg = perceptual.read_vgg("vgg16")
        else:
            log.warning("no VGG16 weights at hand: judged without LPIPS and VGG distances (see `cardiojax port vgg`)")

    @functools.cached_property
    def sampled(self) -> "Judge":
        """The same model on no more than SAMPLED_STUDIES of these, to look at a generator while it is trained."""
        if len(self.split) <= SAMPLED_STUDIES:
            return self
        return Judge(self.model, self.split.subset(sample_of(self.split, SAMPLED_STUDIES), f"{self.split.name}, some"))

    def judge(self, generator: GauganModel) -> dict:
        """ssim, lpips; background_change and slice_change, between ED and ES and between neighbouring slices, outside
        of the heart.

        volume_fidelity: volumes read from the synthetic images against those read from the real ones of the same
        patients. By a SFERA also frechet, kernel (in its features); by contours also mask_fidelity: of the synthetic
        and of the real images the Dice of the masks found with the masks painted, and volumes read against the masks'
        own. With VGG16 also frechet_vgg16, kernel_vgg16; lpips is None where its weights are missing.
        """
        fakes = synthetic(self.studies, generator)
        volumes, dice = self._read(fakes)
        real, fake = (np.concatenate([single_frames(s.frames) for s in studies]) / 127.5 - 1
                      for studies in (self.studies, fakes))
        if generator.net.size_px * 2 == SIZE_PX:            # compared at the pixels that were made
            real, fake = _binned(real), _binned(fake)
        result = {"lpips": None, "ssim": float(np.mean([ssim(a, b) for a, b in zip(fake, real, strict=True)])),
                  "volume_fidelity": _short_agreement(volumes, self.real_volumes),
                  "background_change": {"synthetic": background_difference(fakes), "real": self.real_background},
                  "slice_change": {"synthetic": slice_difference(fakes), "real": self.real_slices}}
        if self.real_features is not None:
            features = self._features(fakes)
            result |= {"frechet": frechet(self.real_features, features), "kernel": kernel(self.real_features, features)}
        if self.model.sees_masks:
            result["mask_fidelity"] = {
                "synthetic": {**dice, **_short_agreement(volumes, self.painted)},
                "real": {**self.real_dice, **_short_agreement(self.real_volumes, self.painted)}}
        if self.vgg is not None:
            distance, seen_real, seen_fake = through_vgg(self.vgg, real, fake)
            result |= {"lpips": distance, "frechet_vgg16": frechet(seen_real, seen_fake),
                       "kernel_vgg16": kernel(seen_real, seen_fake)}
        return result

    def flat(self, generator: GauganModel) -> dict[str, float]:
        """The figures in one level, to watch while training."""
        result = self.judge(generator)
        fidelity, masks = result.pop("volume_fidelity"), result.pop("mask_fidelity", {"synthetic": {}})
        result |= {name: result[name]["synthetic"] for name in ("background_change", "slice_change")}
        return {k: v for k, v in result.items() if v is not None} | {
            f"{name}_{k}": fidelity[name][k] for name in MEASURES for k in ("r", "rmse")} | {
            k: v for k, v in masks["synthetic"].items() if k.startswith("dice")}

    def _read(self, studies: Sequence[Study]) -> tuple[np.ndarray, dict[str, float]]:
        """EDV, ESV, EF of each study as the model measures it, and the Dice of what it sees with the studies' masks."""
        volumes, dice = [], DiceSum()
        for study, p in self.model.predict_many(studies, batch=BATCH):
            volumes.append([p.edv_ml, p.esv_ml])
            if self.model.sees_masks:
                assert p.study is not None
                dice.add(p.study.masks, study.masks)
        return with_ef(np.array(volumes)), dice.means()

    def _features(self, studies: Sequence[Study]) -> np.ndarray | None:
        """SFERA's features of each slice."""
        if self.sfera is None:
            return None
        features, slices = [], padded_slices(map(len, studies))
        for at in range(0, len(studies), BATCH):
            part, p = studies[at:at + BATCH], self.sfera
            encoded = np.asarray(_encoded(p.graph, p.params, p.stats,
                                          p.batch_of(part, fill_to=BATCH, slices=slices).frames))
            features += [encoded[i, :len(s)] for i, s in enumerate(part)]
        return np.concatenate(features).astype(np.float64)


def synthetic(studies: Sequence[Study], generator: GauganModel) -> list[Study]:
    """The same studies with images made from their masks, all of them together: batches for every device."""
    return [study.replace(frames=to_uint8(images)) for study, images in zip(
        studies, generator.stacks([study.masks for study in studies]), strict=True)]


def _short_agreement(volumes: np.ndarray, expected: np.ndarray) -> dict[str, dict[str, float]]:
    """r, RMSE, bias and MAE of EDV, ESV and EF, (N, 3) each."""
    return {name: {k: v for k, v in agreement(volumes[:, i], expected[:, i]).items()
                   if k in ("r", "rmse", "bias", "mae")} for i, name in enumerate(MEASURES)}


def _binned(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), images.shape[1] // 2, 2, images.shape[2] // 2, 2).mean((2, 4))


@functools.partial(jax.jit, static_argnums=0)
def _encoded(graph, params, stats, frames):
    net = nnx.merge(graph, params, stats, copy=True)
    b, s, h, w, c = frames.shape
    return net.encode(frames.reshape(b * s, h, w, c) / 255.0, jnp.ones(b * s), False).reshape(b, s, -1)
