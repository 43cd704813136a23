"""The README's picture: four slices of a phantom study of each variant at ED and ES, the LV outlined.

    python docs/picture.py docs/phantom.png
"""

import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from cardiojax import phantom, preparation
from cardiojax.units import ef_percent


def main(file: str):
    figure, axes = plt.subplots(2, 8, figsize=(12, 3.4), layout="constrained")
    for row, (variant, index) in enumerate((("dsb_like", 11), ("ukb_like", 8))):
        study = preparation.prepare(phantom.study(variant, index))
        has_lv = np.flatnonzero((study.masks[..., 0] == 1).any(axis=(1, 2)))
        at = has_lv[np.linspace(0, len(has_lv) - 2, 4).round().astype(int)]
        for column, (s, phase) in enumerate([(s, phase) for phase in (0, 1) for s in at]):
            axis = axes[row, column]
            axis.imshow(study.frames[s, :, :, phase], cmap="gray")
            if (study.masks[s, :, :, phase] == 1).any():
                axis.contour(study.masks[s, :, :, phase] == 1, [0.5], colors="#ffb000", linewidths=0.8)
            axis.set_axis_off()
        edv, esv = study.volumes_ml
        axes[row, 0].set_title(f"{variant}, ED: {edv:.0f} ml", loc="left", fontsize=9)
        axes[row, 4].set_title(f"ES: {esv:.0f} ml, EF {ef_percent(edv, esv):.0f} %", loc="left", fontsize=9)
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main(sys.argv[1])
