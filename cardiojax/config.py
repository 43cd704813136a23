"""Settings as frozen dataclasses, and the presets. A flag's name, default and help come from here."""

import dataclasses
from typing import Literal

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SferaNet:
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
class Augment:
    """Random changes a training study goes through, the same for all its slices and both frames."""

    rotation_deg: float = 180.0
    """Rotation about the image centre, uniform in ± this."""
    shift_mm: float = 10.0
    scale: float = 0.2
    """In-plane scaling, log-uniform in [1/(1+s), 1+s]; the volumes scale with its square."""
    flip: bool = True
    reverse: bool = True
    """Reverse the order of the slices half of the time."""
    intensity: float = 0.25
    """Strength of random gamma, contrast and brightness."""


@dataclasses.dataclass(frozen=True)
class Sfera:
    """Training of SFERA: everything that decides its outcome, besides the data and the seed."""

    net: SferaNet = dataclasses.field(default_factory=SferaNet)
    augment: Augment = dataclasses.field(default_factory=Augment)
    steps: int = 20_000
    batch: int = 32
    """Studies a step, over all devices."""
    learning_rate: float = 1e-3
    """Of RAdam; decays to zero along half a cosine."""
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema: float = 0.99
    """Decay of the weight average that is evaluated and kept. 0 keeps the last weights."""
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


SFERA_PRESETS = {
    "paper": Sfera(),
    "small": Sfera(net=SferaNet(size_px=75, width=16), batch=8, steps=2000, evaluate_every=500),
    "tiny": Sfera(net=SferaNet(size_px=75, width=4, spatial_features=32, lstm_features=32, dropout=0.0),
                  augment=Augment(rotation_deg=15.0, shift_mm=6.0, scale=0.1, flip=False, reverse=False, intensity=0.1),
                  batch=8, steps=420, learning_rate=3e-3, evaluate_every=210, views=1),
}


def jax_dtype(name: str):
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[name]
