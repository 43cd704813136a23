"""ED and ES of a cine without annotation and without contours."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

BRIGHT = 0.8               # quantile of the pixels above which they are blood, roughly
NEARLY = 0.85              # of the largest change: the R wave's phase is ED where it differs from ES by that much
STRIDE_PX = 2


def ed_es_phases(cines: Sequence[Float[np.ndarray, "t h w"]] | Float[np.ndarray, "s t h w"]) -> tuple[int, int]:
    """ED and ES (from 0), the two phases that differ most over the central halves of the slices. Two of three say which
    is ED: it has more bright pixels (blood), it is brighter on average, it is the first, which the R wave starts. The
    first phase is ED, too, where it differs nearly as much from ES.

    cines: slices of the same number of phases, two or more. `benchmarks/ed_es.py` measures it.
    """
    phases = len(cines[0])
    apart, bright, mean = np.zeros((phases, phases)), np.zeros(phases), np.zeros(phases)
    for cine in cines:
        h, w = cine.shape[1:]
        rows, columns = (slice(n // 4, -(n // 4) or None, STRIDE_PX) for n in (h, w))
        central = cine[:, rows, columns].reshape(phases, -1)
        for t in range(1, phases):
            apart[t, :t] += np.abs(central[:t] - central[t]).sum(axis=1)
        bright += (central > np.quantile(central, BRIGHT)).sum(axis=1)
        mean += central.mean(axis=1)
    apart += apart.T
    ed, es = np.unravel_index(apart.argmax(), apart.shape)
    votes = np.sign([bright[ed] - bright[es], mean[ed] - mean[es], int(ed == 0) - int(es == 0)])
    if votes @ [1.5, 1.0, 1.0] < 0 or (not votes.any() and es < ed):      # of two votes that differ the first decides
        ed, es = es, ed
    if es != 0 and apart[0, es] >= NEARLY * apart[ed, es]:
        ed = 0
    return int(ed), int(es)
