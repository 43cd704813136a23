"""Settings as frozen dataclasses, and the presets. A flag's name, default and help come from here.

Presets: `paper` is what Gheorghiță et al. 2022 describe and no more, `large` our best at the same size, `small` the
same for 2 CPU cores, `tiny` for demo and tests. docs/presets.md lists how they differ, and why.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SferaNetConfig:
    """The network. See `nets.sfera.Sfera`."""

    size_px: int = 150
    """Side of the images: 150 (1 mm), or 75 (2 mm: records are halved on the way into the batch)."""
    width: int = 32
    """Channels of the first residual block; every next block doubles them."""
    blocks: int = 5
    spatial_features: int = 128
    lstm_features: int = 128
    readout: Literal["sum", "final"] = "sum"
    """What the volumes are read from: the BiLSTM's outputs summed over the slices, or its final states (paper)."""
    dropout: float = 0.2
    """Share of the spatial features dropped while training, the same ones on all slices of a study."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions. Parameters, statistics, LSTM and losses stay float32."""


@dataclasses.dataclass(frozen=True)
class AffineConfig:
    """Random moves of a training image (a GauGAN's: together with its mask)."""

    rotation_deg: float = 180.0
    """Rotation about the image centre, uniform in ± this."""
    shift_mm: float = 10.0
    scale: float = 0.2
    """In-plane scaling, log-uniform in [1/(1+s), 1+s]; the volumes scale with its square."""
    flip: bool = True


@dataclasses.dataclass(frozen=True)
class AugmentConfig(AffineConfig):
    """Random changes a training study goes through, the same for all its slices and both frames."""

    reverse: bool = True
    """Reverse the order of the slices half of the time."""
    intensity: float = 0.25
    """Strength of random gamma, contrast and brightness."""


@dataclasses.dataclass(frozen=True)
class SferaConfig:
    """Training of SFERA: everything that decides its outcome, besides the data and the seed."""

    net: SferaNetConfig = dataclasses.field(default_factory=SferaNetConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    steps: int = 20_000
    batch: int = 32
    """Studies a step, over all devices."""
    learning_rate: float = 1e-3
    """Of RAdam; decays to zero along half a cosine."""
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    """Largest norm of the gradient. 0: gradients are not clipped."""
    ema: float = 0.99
    """Decay of the weight average that is evaluated and kept. 0: no average, the last weights."""
    area_weight: float = 1.0
    """Weight of each slice's LV area among the losses, where masks are there (readout "sum" only). 0: volumes only."""
    views: int = 8
    """Flipped, turned and reversed copies of a study whose features a prediction averages: 1 to 16."""
    keep: Literal["last", "best"] = "last"
    """Which evaluation's model the run offers: the last, or the one with the lowest validation RMSE."""
    evaluate_every: int = 500
    """Steps between evaluations (and checkpoints)."""

    def __post_init__(self):
        if self.area_weight and self.net.readout != "sum":
            raise ValueError('area_weight needs readout "sum"; set --area-weight 0 for readout "final"')
        if self.net.size_px not in (150, 75):
            raise ValueError(f"size_px is 150 or 75, not {self.net.size_px}")
        if not 1 <= self.views <= 16:
            raise ValueError(f"views is 1 to 16, not {self.views}")
        for name in ("steps", "batch", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class GauganNetConfig:
    """Generator and discriminator. See `nets.gaugan`."""

    size_px: int = 150
    """Side of the records' images: 150 (1 mm) or 75 (2 mm). Padded to what the upsamplings allow, cropped back."""
    upsamplings: Literal["few", "normal", "more", "most"] = "normal"
    """few: 4, sizes of multiples of 16; normal (paper): 5, of 32; more: 6, of 64; most: 7, of 128."""
    classes: int = 4
    """Labels that the network has room for: background, LV, myocardium, RV."""
    channels: int = 1
    phases: Literal[1, 2] = 1
    """Frames of one image: 1, painted from its own mask; 2, ED and ES of a slice, painted together from both masks."""
    ngf: int = 64
    """Width of the generator."""
    hidden: int = 128
    """Channels between the label map and γ, β."""
    norm: Literal["syncbatch", "batch", "instance"] = "syncbatch"
    """What SPADE modulates: statistics of the whole batch, of one device's part, or of one image."""
    style: bool = False
    """A variational encoder of style: one mask then has many images."""
    ndf: int = 64
    """Width of the discriminator."""
    scales: int = 2
    """Discriminators, each at half the scale of the one before."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions. Parameters, statistics, images and losses stay float32."""

    def __post_init__(self):
        for name in ("size_px", "classes", "channels", "hidden", "ndf", "scales"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.style and self.phases == 2:
            raise ValueError("a style is of single frames, and --phases 2 paints pairs")
        if self.ngf < (least := 2 if self.upsamplings == "most" else 1):
            raise ValueError(f"ngf must be at least {least}, not {self.ngf}")

    @property
    def joined_classes(self) -> int:
        """Labels of the map that the networks see."""
        return self.classes**self.phases

    @property
    def joined_channels(self) -> int:
        """Channels of the images that the networks see."""
        return self.channels * self.phases


@dataclasses.dataclass(frozen=True)
class GauganConfig:
    """Training of a GauGAN: everything that decides its outcome, besides the data and the seed."""

    net: GauganNetConfig = dataclasses.field(default_factory=GauganNetConfig)
    augment: AffineConfig = dataclasses.field(
        default_factory=lambda: AffineConfig(rotation_deg=10.0, shift_mm=6.0, scale=0.1, flip=False))
    steps: int = 50_000
    batch: int = 32
    """Images a step, over all devices."""
    generator_rate: float = 1e-4
    discriminator_rate: float = 4e-4
    decay_from: float = 0.5
    """Share of the steps after which both learning rates fall linearly to 0."""
    feature_weight: float = 10.0
    """Of matching the discriminator's features."""
    perceptual: str = "vgg19"
    """Pretrained network whose features are matched too: vgg19, vgg16 (ported weights: `cardiojax port vgg`),
    either with :FILE, sfera:RUN (our own encoder's), or none."""
    perceptual_weight: float = 10.0
    contours: str = "none"
    """A contours run that must find the mask that was painted in the image, or none. Its weights stay as they are."""
    contours_weight: float = 1.0
    """Of its loss: cross-entropy, Dice and LV area, as its own training's."""
    imagenet: bool = False
    """Scale images as ImageNet's before VGG. NVlabs gives it [−1, 1] as they are."""
    kl_weight: float = 0.05
    """Of the style's divergence from a standard normal (with --style)."""
    ema: float = 0.999
    """Decay of the average of the generator's weights that is evaluated and kept. 0: no average, the last weights."""
    keep: Literal["last", "best"] = "last"
    """Which evaluation's model the run offers: the last, or the best; with --judge the one of the truest volumes."""
    evaluate_every: int = 1000
    """Steps between pictures and figures of held-out masks (and checkpoints)."""

    def __post_init__(self):
        if self.net.size_px not in (150, 75):
            raise ValueError(f"size_px is 150 or 75, not {self.net.size_px}")
        kind, colon, where = self.perceptual.partition(":")
        bare = {"vgg19": True, "vgg16": True, "none": True, "sfera": False}.get(kind)
        if bare is None or (colon and not where) or (where and kind == "none") or not (bare or where):
            raise ValueError(f"perceptual is vgg19[:FILE], vgg16[:FILE], sfera:RUN or none, not {self.perceptual!r}")
        if kind.startswith("vgg") and self.net.channels not in (1, 3):
            raise ValueError(f"{kind} sees 1 or 3 channels, not {self.net.channels}; --perceptual none would do")
        if not 0 <= self.decay_from <= 1:
            raise ValueError(f"decay_from is a share of the steps, 0 to 1, not {self.decay_from}")
        for name in ("steps", "batch", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class ContoursNetConfig:
    """Two U-Nets: one sees the whole frame at 2 mm and finds the heart, one sees 128 × 128 mm round it at 1 mm. See
    `models.contours`."""

    coarse_width: int = 8
    """Channels of the first at its full size; every halving doubles them."""
    width: int = 16
    """Channels of the second."""
    halvings: int = 4
    neighbours: int = 0
    """Slices towards the base, and as many towards the apex, that are seen beside the one that is labelled."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions. Parameters, statistics, probabilities and losses stay float32."""

    def __post_init__(self):
        for name in ("coarse_width", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.neighbours < 0:
            raise ValueError(f"neighbours must be at least 0, not {self.neighbours}")
        if not 1 <= self.halvings <= 4:
            raise ValueError(f"halvings is 1 to 4, as 80 and 128 pixels allow, not {self.halvings}")


@dataclasses.dataclass(frozen=True)
class ContoursConfig:
    """Training of the contours: everything that decides its outcome, besides the data and the seed."""

    net: ContoursNetConfig = dataclasses.field(default_factory=ContoursNetConfig)
    augment: AugmentConfig = dataclasses.field(
        default_factory=lambda: AugmentConfig(shift_mm=12.0, scale=0.2, reverse=False, intensity=0.3))
    steps: int = 20_000
    batch: int = 32
    """Frames a step, over all devices."""
    learning_rate: float = 3e-3
    """Of AdamW; rises over `warmup` steps, then decays to zero along half a cosine."""
    warmup: int = 50
    weight_decay: float = 1e-4
    ema: float = 0.99
    """Decay of the weight average that is evaluated and kept. 0: no average, the last weights."""
    area_weight: float = 0.2
    """Weight of the relative error of the LV's area among the losses."""
    stacks: int = 1
    """Whole stacks a step, one phase each, whose LV volume teaches, over all devices: of studies without masks, and of
    those whose volumes are not their masks' own. Without such studies there are none."""
    volume_weight: float = 0.2
    """Weight of the relative error of these volumes among the losses."""
    views: int = 4
    """Flipped and transposed copies of a frame whose probabilities a prediction averages: 1 to 8."""
    keep: Literal["last", "best"] = "last"
    """Which evaluation's model the run offers: the last, or the one with the lowest validation RMSE."""
    evaluate_every: int = 1000
    """Steps between evaluations (and checkpoints)."""

    def __post_init__(self):
        if not 1 <= self.views <= 8:
            raise ValueError(f"views is 1 to 8, not {self.views}")
        for name in ("steps", "batch", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


SFERA_PRESETS = {
    "paper": SferaConfig(net=SferaNetConfig(readout="final", dropout=0.0),
                         augment=AugmentConfig(rotation_deg=10.0, shift_mm=5.0, scale=0.1, flip=False, reverse=False,
                                               intensity=0.1),
                         weight_decay=0.0, clip_norm=0.0, ema=0.0, area_weight=0.0, views=1),
    "large": SferaConfig(),
    "small": SferaConfig(net=SferaNetConfig(size_px=75, width=16), batch=8, steps=2000, evaluate_every=500),
    "tiny": SferaConfig(net=SferaNetConfig(size_px=75, width=4, spatial_features=32, lstm_features=32, dropout=0.0),
                        augment=AugmentConfig(rotation_deg=15.0, shift_mm=6.0, scale=0.1, flip=False, reverse=False,
                                              intensity=0.1),
                        batch=8, steps=420, learning_rate=3e-3, evaluate_every=210, views=1),
}

GAUGAN_PRESETS = {
    "paper": GauganConfig(augment=AffineConfig(rotation_deg=0.0, shift_mm=0.0, scale=0.0, flip=False), ema=0.0),
    "large": GauganConfig(),
    "small": GauganConfig(net=GauganNetConfig(size_px=75, upsamplings="few", ngf=16, hidden=64, ndf=24), batch=8,
                          steps=5000, generator_rate=2e-4, discriminator_rate=4e-4, perceptual="none", ema=0.99,
                          evaluate_every=1000),
    "tiny": GauganConfig(net=GauganNetConfig(size_px=75, upsamplings="few", ngf=4, hidden=16, ndf=8), batch=8,
                         steps=300, generator_rate=1e-3, discriminator_rate=1e-3, perceptual="none", ema=0.95,
                         evaluate_every=150),
}


CONTOURS_PRESETS = {
    "large": ContoursConfig(net=ContoursNetConfig(coarse_width=16, width=32), stacks=8),
    "small": ContoursConfig(batch=16, steps=5000, evaluate_every=1000),
    "tiny": ContoursConfig(net=ContoursNetConfig(coarse_width=2, width=2, halvings=2), batch=8, steps=200, views=1,
                           evaluate_every=100),
}


def jax_dtype(name: str):
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[name]
