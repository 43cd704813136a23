"""The ES frame of a cine that nobody annotated."""

import numpy as np
from jaxtyping import Float

CYCLE = (0.15, 0.65)       # share of the cycle, from the R wave, in which ES is looked for


def es_phase(cines: list[Float[np.ndarray, "t h w"]]) -> int:
    """The phase (from 0, which is ED) that differs most from ED over the central half of the middle slices.

    cines: the slices base → apex or the reverse, all of the same number of phases, three or more. The middle third of
    them is looked at, where the wall moves most in the plane. `benchmarks/es_rule.py` measures it on the phantom.
    """
    third = len(cines) // 3
    phases = len(cines[0])
    change = np.zeros(phases)
    for cine in cines[third: max(third + 1, 2 * len(cines) // 3)]:
        h, w = cine.shape[1:]
        central = cine[:, h // 4: -(h // 4) or None, w // 4: -(w // 4) or None]
        change += np.abs(central - central[0]).mean(axis=(1, 2))
    first, last = max(1, int(CYCLE[0] * phases)), max(2, int(np.ceil(CYCLE[1] * phases)))
    return first + int(change[first:last].argmax())
