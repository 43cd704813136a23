"""The procedural heart as short-axis bSSFP images: chest, lungs, liver, fat, bias field, partial volume, noise."""

import dataclasses

import numpy as np
from scipy import ndimage

from cardiojax.phantom.anatomy import Shape, Subject, Variant

FOV_MM = 210.0
ANGLES = np.linspace(-np.pi, np.pi, 721, dtype=np.float32)     # contours are tabulated over these
BLOOD, FAT, LUNG, MUSCLE, LIVER = 1.0, 0.82, 0.05, 0.30, 0.40


@dataclasses.dataclass(frozen=True)
class Grid:
    """Pixel centres in mm from the image centre."""

    rows: np.ndarray
    cols: np.ndarray
    pixel: float

    @classmethod
    def of(cls, pixel: float) -> "Grid":
        n = int(FOV_MM / pixel) // 2 * 2
        axis = (np.arange(n, dtype=np.float32) - (n - 1) / 2) * pixel
        return cls(axis[:, None], axis[None, :], pixel)

    def radius(self, row: float, col: float) -> np.ndarray:
        return np.sqrt((self.rows - np.float32(row))**2 + (self.cols - np.float32(col))**2)      # np.hypot: 3 x as long

    def angle_index(self, row: float, col: float) -> np.ndarray:
        """Which of ANGLES every pixel is seen at from a point."""
        angle = np.arctan2(self.rows - np.float32(row), self.cols - np.float32(col))
        return np.round((angle + np.pi) * (720 / (2 * np.pi))).astype(np.int32)

    def cover(self, distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
        """How much of a pixel lies inside (signed distance in mm, negative inside)."""
        return np.clip(0.5 - distance / (self.pixel * softness), 0, 1)

    def smooth_noise(self, rng: np.random.Generator, scale_mm: float) -> np.ndarray:
        """Zero-mean, unit-deviation field that varies over about `scale_mm`."""
        n = len(self.rows)
        coarse = rng.standard_normal((max(4, int(FOV_MM / scale_mm)) + 3,) * 2).astype(np.float32)
        field = np.asarray(ndimage.zoom(coarse, (n + 1) / coarse.shape[0], order=3))[:n, :n]
        return (field - field.mean()) / field.std()


def paint(image: np.ndarray, cover: np.ndarray, value) -> None:
    image += cover * (value - image)


def centre_at(subject: Subject, z: float) -> tuple[float, float]:
    share = z / subject.length - 0.5
    return (subject.centre[0] + share * subject.axis_drift[0], subject.centre[1] + share * subject.axis_drift[1])


class Body:
    """What does not beat: chest wall, lungs with vessels, liver, stomach, aorta; varies smoothly along the stack."""

    def __init__(self, subject: Subject, grid: Grid):
        self.subject, self.grid = subject, grid
        rng = np.random.default_rng([subject.seed, 1])
        size = subject.rv_size + 0.2 * subject.length        # a larger heart pushes the walls away
        self.wall_depth, self.fat = size + rng.uniform(2, 14), rng.uniform(5, 22)
        self.wall_tilt, self.diaphragm = rng.uniform(-0.55, -0.1), size + rng.uniform(-14, 2)
        self.dome = rng.uniform(-25, 10)
        self.stomach = rng.random() < 0.6
        self.texture = [grid.smooth_noise(rng, mm) for mm in (30.0, 12.0, 6.0)]
        self.vessels = rng.uniform(-1, 1, (14, 3))
        self.aorta = (rng.uniform(45, 70), rng.uniform(35, 60), rng.uniform(9, 13))

    def image(self, z: float) -> np.ndarray:
        g, t = self.grid, self.texture
        image = np.full((len(g.rows), len(g.rows)), LUNG, np.float32) + 0.012 * t[2]
        for y, x, size in self.vessels[:9]:
            r = g.radius(90 * y, 20 + 80 * abs(x))
            paint(image, g.cover(r - (1.5 + 1.5 * abs(size))), 0.35)
        r = g.radius(*self.aorta[:2])
        paint(image, g.cover(r - self.aorta[2] - 2), 0.3)
        paint(image, g.cover(r - self.aorta[2]), 0.95)
        lower = self.diaphragm - 0.12 * z + 0.0025 * (g.cols - self.dome) ** 2 * 0.6
        depth = g.rows - lower
        paint(image, g.cover(-depth - 2.5), MUSCLE)
        paint(image, g.cover(-depth), LIVER + 0.035 * t[1] + 0.02 * t[2])
        for y, x, size in self.vessels[9:]:
            r = g.radius(self.diaphragm + 22 + 18 * y, -50 + 45 * x)
            paint(image, g.cover(r - (1.5 + 2 * abs(size))) * g.cover(-depth), 0.75)
        if self.stomach:
            r = g.radius(self.diaphragm + 22 - 0.1 * z, 58.0)
            paint(image, g.cover(r - 20 - 1.5 * t[0]) * g.cover(-depth), 0.12 + 0.05 * t[1])
        chest = -self.wall_depth + self.wall_tilt * g.cols + 0.0016 * g.cols**2
        chest = chest - g.rows + 1.5 * t[0]              # > 0 in front of the inner chest wall
        paint(image, g.cover(-chest), MUSCLE + 0.05 * t[1])
        ribs = 0.5 + 0.5 * np.sin((g.cols + 0.5 * z) / 7.5)
        paint(image, g.cover(-chest + 2) * g.cover(chest - 8) * ribs, 0.55)
        paint(image, g.cover(-chest + 11), FAT + 0.04 * t[2])
        paint(image, g.cover(-chest + 11 + self.fat), 0.25)
        paint(image, g.cover(-chest + 13 + self.fat), 0.01)
        return image


def heart(image: np.ndarray, body: Body, shape: Shape, z: float, myocardium: float) -> np.ndarray:
    """The heart painted over the body at one depth and moment."""
    g, sub, t = body.grid, shape.subject, body.texture
    row, col = centre_at(sub, z)
    r, at = g.radius(row, col), g.angle_index(row, col)
    above = z < shape.base
    epi_table = shape.epi(max(z, shape.base), ANGLES)
    epi, reach = epi_table[at], float(epi_table.max())
    size = shape.rv(max(z, shape.base))
    rv_row, rv_col = rv_centre(shape, z, reach, size)
    rv = rv_distance(g, shape, rv_row, rv_col, size)
    beyond = max(0.0, z - shape.base - shape.outer_length)
    if beyond < 6:
        union = np.minimum(r - epi, rv - 3.5 if size > 2 else np.float32(1e3))
        groove = 6 * np.exp(-((ANGLES - sub.rv_angle - 1.2 + np.pi) % (2 * np.pi) - np.pi) ** 2)[at]
        fat = 3.5 + 1.4 * t[0] + 0.5 * t[1] + groove
        paint(image, g.cover(union - fat, 3.0), 0.60 + 0.08 * t[1])
        paint(image, g.cover(np.abs(union - fat) - 0.8, 1.5) * 0.7, 0.12)
    if size > 2:
        paint(image, g.cover(rv - 3.5, 1.2), myocardium + 0.03)
        paint(image, g.cover(rv, 1.3), BLOOD * (0.95 + 0.03 * t[1]))
        spots = np.sin(g.rows / 2.3 + 2 * t[1]) * np.sin(g.cols / 2.6 + 2 * t[0])
        paint(image, g.cover(rv, 1.3) * g.cover(-rv - 9, 4.0) * (spots > 0.35) * 0.5, myocardium)
    if above:
        atrium, outflow = 0.80 * reach, 0.36 * reach
        paint(image, g.cover(np.hypot((g.rows - row - 4) * 1.15, g.cols - col - 5) - atrium - 2), myocardium + 0.05)
        paint(image, g.cover(np.hypot((g.rows - row - 4) * 1.15, g.cols - col - 5) - atrium), BLOOD * 0.93)
        ao = g.radius(row - 0.55 * reach, col - 0.55 * reach)
        paint(image, g.cover(ao - outflow - 2.0), 0.3)
        paint(image, g.cover(ao - outflow), BLOOD)
        return image
    paint(image, g.cover(r - epi), myocardium + 0.018 * t[2])
    endo = shape.endo(z, ANGLES)[at]
    if endo.max() > 0.5:
        rough = (1.1 * t[2] + 0.7 * np.sin(13 * ANGLES)[at]) * np.clip(endo / 12, 0, 1)
        cavity = g.cover(r - endo + rough, 1.4)
        paint(image, cavity, BLOOD * (1 - 0.04 * t[1] * (1 - shape.s)))
        papillary(image, g, shape, z, row, col, float(np.mean(endo)), cavity, myocardium)
    return image


def papillary(image, g: Grid, shape: Shape, z: float, row, col, endo: float, cavity, myocardium: float):
    """Two muscles between a quarter and three quarters of the depth; they fill relatively more at ES."""
    u = (z - shape.base) / shape.length
    if not 0.25 < u < 0.8:
        return
    for angle in shape.subject.papillary:
        size = (3.2 + 1.2 * shape.s) * min(1.0, endo / 14)
        at = 0.72 * endo - 0.15 * shape.s * endo
        r = g.radius(row + at * np.sin(angle), col + at * np.cos(angle))
        paint(image, g.cover(r - size) * cavity, myocardium + 0.05)


def rv_centre(shape: Shape, z: float, reach: float, size: float) -> tuple[float, float]:
    row, col = centre_at(shape.subject, z)
    away = 0.72 * reach + 0.1 * size
    return row + away * np.sin(shape.subject.rv_angle), col + away * np.cos(shape.subject.rv_angle)


def rv_distance(g: Grid, shape: Shape, row: float, col: float, size: float) -> np.ndarray:
    """Signed distance to an ellipse across the septum, longer along it; the LV is painted over it."""
    a = shape.subject.rv_angle
    y, x = g.rows - np.float32(row), g.cols - np.float32(col)
    along, across = -np.sin(a) * x + np.cos(a) * y, np.cos(a) * x + np.sin(a) * y
    tip = 1.28 - 0.006 * across
    return np.sqrt((along / tip)**2 + across**2) - size


def labels(grid: Grid, shape: Shape, z: float) -> np.ndarray:
    """Ground truth of one slice at its middle: papillary muscles belong to the cavity; nothing above the base."""
    out = np.zeros((len(grid.rows),) * 2, np.uint8)
    if z < shape.base:
        return out
    centre = centre_at(shape.subject, z)
    r, at = grid.radius(*centre), grid.angle_index(*centre)
    epi, endo, size = shape.epi(z, ANGLES)[at], shape.endo(z, ANGLES)[at], shape.rv(z)
    if size > 2:
        out[rv_distance(grid, shape, *rv_centre(shape, z, float(epi.max()), size), size) < 0] = 3
    out[r < epi] = 2
    if shape.inside_depth(z):
        out[r < endo] = 1
    return out


def image_slice(body: Body, background: np.ndarray, shape: Shape, z: float, myocardium: float) -> np.ndarray:
    """One slice with partial volume through its thickness: the mean of three planes."""
    offsets = np.array([-1 / 3, 0, 1 / 3]) * body.subject.thickness
    return np.mean([heart(background.copy(), body, shape, z + o, myocardium) for o in offsets], axis=0)


def scan(image: np.ndarray, body: Body, variant: Variant, rng: np.random.Generator, bias: np.ndarray) -> np.ndarray:
    """The scanner: point spread, coil sensitivity, Rician noise, 12-bit integers."""
    blurred = ndimage.gaussian_filter(image, 0.55 / min(1.0, body.grid.pixel)) * bias
    real = blurred + variant.noise * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = variant.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.round(np.sqrt(real**2 + imaginary**2) * 900).astype(np.float32)


def bias_field(body: Body) -> np.ndarray:
    """Surface coils: brighter in front, and a slow random part."""
    g = body.grid
    return (1.05 - 0.0032 * g.rows) * np.exp(0.10 * ndimage.gaussian_filter(body.texture[0], 12 / g.pixel))
