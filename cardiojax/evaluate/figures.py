"""Agreement as pictures: scatter (paper, Fig. 4) and Bland–Altman (Fig. 5); synthetic beside real images."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from cardiojax.evaluate.metrics import agreement

MASK_COLOURS = np.array([(20, 20, 28), (214, 64, 69), (88, 180, 110), (66, 120, 200)], np.uint8)   # by label
TITLES = ("EDV (ml)", "ESV (ml)", "EF (%)")


def scatter(predicted: np.ndarray, truth: np.ndarray, file: Path):
    """Predicted against true; columns EDV, ESV (ml), EF (percent), (N, 3) each."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
    for k, axis in enumerate(axes):
        result = agreement(predicted[:, k], truth[:, k])
        low = min(predicted[:, k].min(), truth[:, k].min())
        high = max(predicted[:, k].max(), truth[:, k].max())
        axis.plot([low, high], [low, high], color="0.6", linewidth=1)
        axis.scatter(truth[:, k], predicted[:, k], s=14, alpha=0.7)
        axis.set(title=f"{TITLES[k]}: RMSE {result['rmse']:.1f}, r {result['r']:.2f}", xlabel="true",
                 ylabel="predicted")
        axis.set_aspect("equal")
    save(figure, file)


def bland_altman(predicted: np.ndarray, truth: np.ndarray, file: Path):
    """Error against the mean of both, with bias and mean ± 1.96 SD."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for k, axis in enumerate(axes):
        result = agreement(predicted[:, k], truth[:, k])
        axis.scatter((predicted[:, k] + truth[:, k]) / 2, predicted[:, k] - truth[:, k], s=14, alpha=0.7)
        for value, style in ((result["bias"], "-"), *((limit, "--") for limit in result["loa"])):
            if np.isfinite(value):
                axis.axhline(value, color="0.4", linestyle=style, linewidth=1)
        axis.set(title=f"{TITLES[k]}: bias {result['bias']:+.1f}", xlabel="mean of both", ylabel="predicted − true")
    save(figure, file)


def sample_grid(masks: np.ndarray, fakes: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """Columns of mask, synthetic and real image: (N, H, W) labels and images in [−1, 1] → (3H, NW, 3) uint8."""
    rows = [MASK_COLOURS[masks % len(MASK_COLOURS)]]
    rows += [np.repeat(((np.clip(i, -1, 1) + 1) * 127.5).round().astype(np.uint8)[..., None], 3, -1)
             for i in (fakes, reals)]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def save(figure, file: Path):
    figure.savefig(file, dpi=130)
    plt.close(figure)
