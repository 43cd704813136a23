"""How often the ES frame of a phantom cine is found, and what a miss costs: `python benchmarks/es_rule.py`.

Every study is a cine of 25 phases whose true ES is known; ESV is read from its masks at the found phase, so that the
excess is the rule's alone. Images are noisy as the variant has them.
"""

import json
from pathlib import Path

import numpy as np
import tyro

from cardiojax import phantom, units
from cardiojax.readers.cycle import es_phase, middle


def main(studies: int = 20, phases: int = 25, out: Path = Path("benchmarks/results/es_rule.json")):
    """Writes the shares of phases exactly found and within one, and the mean excess of ESV (ml), by variant."""
    levels = phantom.contraction(np.arange(phases) / phases)
    truth = int(levels.argmax())
    result = {"studies": studies, "phases": phases}
    for variant in ("dsb_like", "ukb_like"):
        misses, excess_ml = [], []
        for i in range(studies):
            frames, masks, heart = phantom.cine(variant, i, levels)
            found = es_phase(middle(frames.transpose(0, 3, 1, 2)))
            esv = [units.simpson_ml(units.lv_area_mm2(masks[..., [0, p]], (heart.pixel, heart.pixel)),
                                    heart.slice_spacing)[1] for p in (found, truth)]
            misses.append(abs(found - truth))
            excess_ml.append(float(esv[0] - esv[1]))
        result[variant] = {"exact": float(np.mean(np.array(misses) == 0)),
                           "within_one": float(np.mean(np.array(misses) <= 1)), "largest_miss": int(max(misses)),
                           "esv_excess_ml": float(np.mean(excess_ml)), "esv_excess_ml_max": float(max(excess_ml))}
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    tyro.cli(main)
