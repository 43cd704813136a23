"""The choice of synthetic patients: a pool of mask pairs of real patients, and members of it with a given EF
distribution (paper, Methods and Fig. 1)."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from cardiojax import units
from cardiojax.data import builders
from cardiojax.errors import DataError, InputError
from cardiojax.study import Study
from cardiojax.synthesis.masks import Recipe, Shapes, recipes

EDGES = np.linspace(10.0, 80.0, 15)         # EF percent; the paper keeps [10, 80]
LOW_EF, LOW_SHARE = 40.0, 2 / 3             # of the distribution "low": so many of the studies lie below
DENSITIES = (1, 2, 3, 4, 6, 8, 12, 16)      # of the grid of candidates, tried in turn where more are asked for


class TooFew(DataError):
    """The pool has too few candidates of some EF; a denser grid may have more."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One synthetic patient: index of the real patient in its split, how its masks are made, and their EF."""

    patient: int
    recipe: Recipe
    ef_percent: float


@dataclasses.dataclass(frozen=True)
class Pool:
    """All candidates of a split's patients with an EF in [10, 80] %; `made` counts those outside of it too."""

    members: tuple[Member, ...]
    made: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """The members of a split, in the order of their patients, with the pool's figures and the flatness reached."""

    members: tuple[Member, ...]
    density: int
    made: int
    filtered: int

    def figures(self, share: Float[np.ndarray, " b"]) -> dict:
        """Counts a bin, and how far they are from the distribution asked for (`share` of each bin)."""
        ef = np.array([m.ef_percent for m in self.members])
        counts, wanted = histogram(ef), len(ef) * share
        off = np.abs(counts - wanted)[share > 0] / wanted[share > 0]
        cdf = np.concatenate([[0.0], np.cumsum(share)])
        return {"candidates": self.made, "with_ef_in_10_80": self.filtered, "kept": len(ef),
                "grid_density": self.density, "patients": len({m.patient for m in self.members}),
                "ef_bins": EDGES.tolist(), "studies_by_bin": counts.tolist(), "largest_bin_deviation": float(off.max()),
                "ks_distance": float(stats.kstest(ef, lambda x: np.interp(x, EDGES, cdf)).statistic)}


def histogram(ef_percent: Float[np.ndarray, " n"]) -> Int[np.ndarray, " b"]:
    return np.histogram(ef_percent, EDGES)[0]


def shares(distribution: str, real_ef: Callable[[str], Float[np.ndarray, " n"]]) -> Float[np.ndarray, " b"] | None:
    """The share of the studies in each bin: "uniform", "low" (two thirds below 40 %), "as:NAME" (as `real_ef(NAME)`);
    "all" has none, it takes the pool as it is. Raises InputError for any other."""
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    if distribution == "all":
        return None
    if distribution == "uniform":
        return np.full(len(middles), 1 / len(middles))
    if distribution == "low":
        below = middles < LOW_EF
        return np.where(below, LOW_SHARE / below.sum(), (1 - LOW_SHARE) / (~below).sum())
    if distribution.startswith("as:") and len(distribution) > 3:
        counts = histogram(real_ef(distribution[3:]))
        if not counts.any():
            raise InputError(f"{distribution[3:]} has no study with an EF in [10, 80] %")
        return counts / counts.sum()
    raise InputError(f"the distribution is uniform, as:NAME, low or all, not {distribution!r}")


def pool(patients: Sequence[Study], density: int, progress: Callable = iter) -> Pool:
    """The candidates of every patient; volumes and EF are measured on the masks."""
    members, made = [], 0
    for i, study in enumerate(progress(patients)):
        assert study.masks is not None
        shapes = Shapes(study.masks)
        for recipe in recipes(density):
            made += 1
            edv, esv = shapes.volumes_ml(recipe)
            if edv > 0 and EDGES[0] <= (ef := float(units.ef_percent(edv, esv))) <= EDGES[-1]:
                members.append(Member(i, recipe, ef))
    return Pool(tuple(members), made)


def choose(pool: Pool, share: Float[np.ndarray, " b"] | None, size: int | None, seed: int) -> tuple[Member, ...]:
    """Members of the pool in the shares asked for; as many as there can be, or `size`. Patients share alike.

    Raises TooFew where the pool does not hold `size` of them.
    """
    ef = np.array([m.ef_percent for m in pool.members])
    bins = np.clip(np.searchsorted(EDGES, ef, side="right") - 1, 0, len(EDGES) - 2)
    if share is None:
        share, bins = np.ones(1), np.zeros(len(ef), int)
    have = np.bincount(bins, minlength=len(share))
    if size is None:
        size = int(min((have[b] / share[b] for b in np.flatnonzero(share)), default=0))
    quota = apportioned(size, share)
    if (quota > have).any():
        worst = int(np.argmax(quota - have))
        where = f"an EF of {EDGES[worst]:g} to {EDGES[worst + 1]:g} %" if len(share) > 1 else "an EF in [10, 80] %"
        raise TooFew(f"{quota[worst]} studies with {where} are asked for, and the pool has {have[worst]}")
    rng = np.random.default_rng(seed)
    chosen = []
    for b, count in enumerate(quota):
        chosen += _one_of_each_first([pool.members[i] for i in np.flatnonzero(bins == b)], rng)[:count]
    return tuple(sorted(chosen, key=lambda m: (m.patient, m.recipe)))


def _one_of_each_first(members: list[Member], rng: np.random.Generator) -> list[Member]:
    """In random order, but a patient's second candidate after every patient's first, and so on."""
    turn: dict[int, int] = {}
    order = []
    for i in rng.permutation(len(members)):
        turn[members[i].patient] = turn.get(members[i].patient, 0) + 1
        order.append((turn[members[i].patient], len(order), int(i)))
    return [members[i] for *_, i in sorted(order)]


def apportioned(size: int, share: Float[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    """`size` in whole numbers by share; what rounding leaves goes to the largest remainders."""
    exact = size * share / share.sum()
    quota = np.floor(exact + 1e-9).astype(int)
    left = size - quota.sum()
    quota[np.argsort(quota - exact, kind="stable")[:left]] += 1
    return quota


def plan(splits: Mapping[str, Sequence[Study]], distribution: Float[np.ndarray, " b"] | None, size: int | None,
         seed: int, progress: Callable = iter) -> dict[str, Choice]:
    """The members of each split; `size` is spread over the splits by their patients.

    The grid of candidates is the paper's, and grows where `size` asks for more than it holds. Raises InputError
    where even the finest does not, and DataError where a patient is in two splits.
    """
    check_disjoint(splits)
    sizes = dict.fromkeys(splits, size)
    if size is not None:
        counts = np.array([len(patients) for patients in splits.values()], float)
        sizes = dict(zip(splits, apportioned(size, counts).tolist(), strict=True))
    found = {}
    for split, patients in splits.items():
        for density in DENSITIES:
            candidates = pool(patients, density, progress)
            try:
                members = choose(candidates, distribution, sizes[split], seed)
            except TooFew as few:
                if density == DENSITIES[-1]:
                    raise InputError(f"split {split}: {few}, on the finest grid; ask for a smaller --size") from None
                continue
            if not members:
                raise InputError(f"split {split}: its {len(patients)} patients give no candidates of that "
                                 "distribution; --distribution all takes what there is")
            found[split] = Choice(members, density, candidates.made, len(candidates.members))
            break
    return found


def check_disjoint(splits: Mapping[str, Sequence[Study]]):
    """Raises DataError where descendants of one patient, also of another visit, would be in two splits."""
    seen: dict[str, str] = {}
    for split, studies in splits.items():
        real = {(s.source, s.ancestor or s.study_id) for s in studies}
        for patient in sorted(set(builders.patients(real).values())):
            if seen.setdefault(patient, split) != split:
                raise DataError(f"patient {patient} is in both {seen[patient]} and {split}")


def fingerprint(splits: Mapping[str, Sequence[Study]]) -> str:
    """Changes where a patient or a mask does."""
    digest = hashlib.sha256()
    for split, patients in splits.items():
        for study in patients:
            digest.update(f"{split}/{study.source}/{study.study_id}".encode())
            digest.update(np.ascontiguousarray(study.masks).tobytes())
    return digest.hexdigest()
