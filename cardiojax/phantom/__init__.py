"""The embedded cohort: procedural short-axis studies with known masks and volumes, to work on without any data.

`study("dsb_like", 7)` is always the same study. Two variants differ as the paper's two datasets do.
"""

import numpy as np

from cardiojax.phantom import render
from cardiojax.phantom.anatomy import VARIANTS, Subject, sample_subject
from cardiojax.preparation import prepare
from cardiojax.study import Study

__all__ = ["VARIANTS", "cine", "contraction", "prepared_study", "slice_depths_mm", "study", "subject"]

ES_TIME = 0.36                # of the cycle


def subject(variant: str, index: int) -> Subject:
    """The heart behind a study. Raises KeyError for an unknown variant."""
    return sample_subject(VARIANTS[variant], [*VARIANTS].index(variant) * 1_000_003 + index)


def slice_depths_mm(heart: Subject) -> np.ndarray:
    """Depths of the slices, base → apex: from above the base to just beyond the apex."""
    count = int((heart.length + heart.wall - heart.z_first) // heart.slice_spacing) + 1
    return heart.z_first + heart.slice_spacing * np.arange(-heart.extra_base, count)


def contraction(time: np.ndarray) -> np.ndarray:
    """0 at ED, 1 at ES, over the cycle [0, 1): systole, rapid filling, diastasis, atrial kick."""
    at = [0, 0.06, ES_TIME, 0.42, 0.58, 0.85, 1.0]
    level = [0, 0.05, 1.0, 0.96, 0.32, 0.25, 0.0]
    smooth = np.interp(time, at, level)
    return np.clip(smooth, 0, 1)


def cine(variant: str, index: int, contractions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Subject]:
    """Frames (S, H, W, T) float32, masks (S, H, W, T) uint8 at the given contractions, and the heart."""
    settings, heart = VARIANTS[variant], subject(variant, index)
    grid = render.Grid.of(heart.pixel)
    body = render.Body(heart, grid)
    bias, depths = render.bias_field(body), slice_depths_mm(heart)
    shapes = [heart.contracted(float(s)) for s in contractions]
    size = len(grid.rows)
    frames = np.empty((len(depths), size, size, len(shapes)), np.float32)
    masks = np.empty(frames.shape, np.uint8)
    for i, z in enumerate(depths):
        rng = np.random.default_rng([heart.seed, 2, i])
        gain, background = rng.normal(1, 0.03), body.image(z)
        shift = rng.normal(0, 1.2, 2)                    # breath holds differ a little
        for k, shape in enumerate(shapes):
            image = render.image_slice(body, background, shape, z, settings.contrast)
            image = render.ndimage.shift(image, shift / heart.pixel, order=1, mode="nearest")
            frames[i, :, :, k] = gain * render.scan(image, body, settings, rng, bias)
            masks[i, :, :, k] = render.ndimage.shift(render.labels(grid, shape, z), shift / heart.pixel, order=0)
    return frames, masks, heart


def study(variant: str, index: int) -> Study:
    """Study number `index` of a variant at ED and ES; volumes are Simpson's on its masks."""
    frames, masks, heart = cine(variant, index, np.array([0.0, 1.0]))
    made = Study(study_id=f"{variant}_{index:05d}", frames=frames, masks=masks, slice_spacing_mm=heart.slice_spacing,
                 pixel_spacing_mm=(heart.pixel, heart.pixel))
    return made.replace(volumes_ml=made.volumes_from_masks_ml())


def prepared_study(variant: str, index: int) -> Study:
    """The same study as the records hold it."""
    return prepare(study(variant, index))
