"""The ES frame of a cine without annotation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

CYCLE = (0.15, 0.65)       # share of the cycle, from the R wave, in which ES is looked for


def middle(slices: Sequence | np.ndarray) -> Sequence | np.ndarray:
    """The middle third of the slices, one at least: where the wall moves most in the plane."""
    third = len(slices) // 3
    return slices[third: max(third + 1, 2 * len(slices) // 3)]


def es_phase(cines: Sequence[Float[np.ndarray, "t h w"]] | Float[np.ndarray, "s t h w"]) -> int:
    """The phase (from 0, which is ED) that differs most from ED over the central half of these slices (`middle`).

    cines: all of the same number of phases, three or more. `benchmarks/es_rule.py` measures it on the phantom.
    """
    phases = len(cines[0])
    change = np.zeros(phases)
    for cine in cines:
        h, w = cine.shape[1:]
        central = cine[:, h // 4: -(h // 4) or None, w // 4: -(w // 4) or None]
        change += np.abs(central - central[0]).mean(axis=(1, 2))
    first, last = max(1, int(CYCLE[0] * phases)), max(2, int(np.ceil(CYCLE[1] * phases)))
    return first + int(change[first:last].argmax())
