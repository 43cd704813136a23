"""A procedural heart: a truncated ellipsoid LV that contracts, its wall, the RV crescent, what lies above the base.

All lengths in mm. The long axis is the slice normal; depth z grows from the ED base (0) to the apex.
"""

import dataclasses

import numpy as np

U0 = 0.2                                                       # widest at 20 % of the length
KAPPA = 1 - ((1 - U0) ** 3 + U0**3) / (3 * (1 - U0) ** 2)      # volume = π R² L κ


@dataclasses.dataclass(frozen=True)
class Variant:
    """A population and its scanner. Distributions are mean, SD and limits."""

    ef_percent: tuple[float, float, float, float]
    low_ef_share: float                   # of studies drawn uniformly between 12 and 42 %
    edv_ml: tuple[float, float, float, float]
    slice_spacing_mm: tuple[float, ...]
    thickness_mm: float
    pixel_mm: tuple[float, float]
    contrast: float                       # myocardium relative to blood
    noise: float


# After the paper's Fig. 1a and 1b and its Methods: Dataset 1 has a wide, left-skewed EF, Dataset 2 a narrow one.
VARIANTS = {
    "dsb_like": Variant((61.0, 8.0, 10.0, 80.0), 0.14, (160.0, 50.0, 60.0, 420.0), (10.0, 10.0, 10.0, 9.0), 8.0,
                        (0.9, 1.7), 0.28, 0.035),
    "ukb_like": Variant((59.0, 6.0, 35.0, 78.0), 0.01, (148.0, 32.0, 75.0, 280.0), (8.0, 8.0, 10.0), 8.0, (1.8, 2.1),
                        0.36, 0.02),
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One person's heart at rest (ED) and how it beats."""

    edv_ml: float
    ef: float
    length: float
    wall: float
    descent: float               # of the base towards the apex at ES
    ellipticity: float
    tilt: float                  # direction of the ellipse's long axis
    fourier: np.ndarray          # (4, 2) smooth irregularity of the contour
    hypokinesis: tuple[float, float]    # strength and direction of a segment that moves less
    rv_angle: float              # where the RV lies; π is image left
    rv_size: float
    papillary: np.ndarray        # (2,) directions
    centre: tuple[float, float]  # of the heart in the image (row, column)
    axis_drift: tuple[float, float]     # of the centre from base to apex
    slice_spacing: float
    thickness: float
    pixel: float
    extra_base: int              # slices above the base
    z_first: float               # depth of the first slice below the base
    seed: int

    def contracted(self, s: float) -> "Shape":
        """The heart at contraction `s`: 0 at ED, 1 at ES. The wall keeps its volume."""
        volume = 1000 * self.edv_ml * (1 - self.ef * s)
        base = self.descent * s
        length = self.length - base
        ed_radius = np.sqrt(1000 * self.edv_ml / (np.pi * self.length * KAPPA))
        radius = np.sqrt(volume / (np.pi * length * KAPPA))
        wall_volume = (np.pi * (ed_radius + self.wall) ** 2 * (self.length + self.wall) * KAPPA - 1000 * self.edv_ml)
        outer_length = length + self.wall
        outer = np.sqrt((volume + wall_volume) / (np.pi * outer_length * KAPPA))
        return Shape(self, s, base, radius, length, outer, outer_length, ed_radius)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A heart at one moment: radii of its parts at any depth and direction."""

    subject: Subject
    s: float
    base: float
    radius: float
    length: float
    outer: float
    outer_length: float
    ed_radius: float

    def inside_depth(self, z: float) -> bool:
        return bool(self.base <= z <= self.base + self.length)

    def profile(self, z: float, length: float) -> float:
        """Radius at depth z as a share of the largest; 0 beyond the apex."""
        u = (z - self.base) / length
        return float(np.sqrt(max(0.0, 1 - ((max(u, 0.0) - U0) / (1 - U0)) ** 2)))

    def irregular(self, theta: np.ndarray) -> np.ndarray:
        out = 1 + self.subject.ellipticity * np.cos(2 * (theta - self.subject.tilt))
        for k, (a, b) in enumerate(self.subject.fourier, start=3):
            out = out + a * np.cos(k * theta) + b * np.sin(k * theta)
        return out

    def endo(self, z: float, theta: np.ndarray) -> np.ndarray:
        """Radius of the cavity; a hypokinetic segment stays nearer to its place at ED."""
        strength, direction = self.subject.hypokinesis
        lag = strength * self.s * np.exp(3 * (np.cos(theta - direction) - 1))
        radius = self.radius + lag * max(0.0, self.ed_radius - self.radius)
        return radius * self.profile(z, self.length) * self.irregular(theta)

    def epi(self, z: float, theta: np.ndarray) -> np.ndarray:
        soft = 1 + 0.6 * (self.irregular(theta) - 1)
        outer = self.outer * self.profile(z, self.outer_length) * soft
        endo = self.endo(z, theta)
        return np.where(endo > 0, np.maximum(outer, endo + 3.0), outer)

    def rv(self, z: float) -> float:
        """Size of the RV cavity at depth z, 0 below its apex."""
        u = (z - self.base) / (0.85 * self.length)
        shrink = 1 - 0.28 * self.s * min(1.0, self.subject.ef / 0.6)
        return self.subject.rv_size * shrink * float(np.sqrt(max(0.0, 1 - max(u, 0.0) ** 2)))


def draw(rng: np.random.Generator, mean: float, sd: float, low: float, high: float) -> float:
    return float(np.clip(rng.normal(mean, sd), low, high))


def sample_subject(variant: Variant, seed: int) -> Subject:
    """The heart that belongs to a seed: always the same one."""
    rng = np.random.default_rng(seed)
    low = rng.random() < variant.low_ef_share
    ef = rng.uniform(12, 42) if low else draw(rng, *variant.ef_percent)
    edv = draw(rng, *variant.edv_ml) * (rng.uniform(1.05, 1.7) if low else 1.0)
    length = draw(rng, 88.0, 7.0, 70.0, 110.0) * (edv / 150) ** 0.28
    return Subject(
        edv_ml=min(edv, 520.0), ef=ef / 100, length=length, wall=draw(rng, 8.5, 1.6, 5.5, 14.0),
        descent=0.13 * length * min(1.0, ef / 60) * rng.uniform(0.7, 1.1),
        ellipticity=rng.uniform(0, 0.07), tilt=rng.uniform(0, np.pi), fourier=rng.normal(0, 0.012, (4, 2)),
        hypokinesis=(rng.uniform(0.2, 0.8) if ef < 50 else 0.0, rng.uniform(-np.pi, np.pi)),
        rv_angle=np.pi + rng.uniform(-0.35, 0.35), rv_size=draw(rng, 34.0, 4.0, 25.0, 46.0) * (edv / 150) ** 0.15,
        papillary=np.array([rng.uniform(0.5, 1.0), rng.uniform(2.0, 2.6)]),
        centre=(rng.uniform(-12, 12), rng.uniform(-8, 16)),
        axis_drift=(rng.uniform(-4, 10), rng.uniform(-4, 10)),
        slice_spacing=float(rng.choice(variant.slice_spacing_mm)), thickness=variant.thickness_mm,
        pixel=float(rng.uniform(*variant.pixel_mm)), extra_base=int(rng.integers(0, 3)),
        z_first=rng.uniform(1.0, 7.0), seed=seed)
