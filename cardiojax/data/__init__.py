"""Records of prepared studies (TFDS), and batches of them (grain)."""

from cardiojax.data.batches import (
    Reading,
    endless,
    evaluation_batches,
    max_slices,
    one_ahead,
    sample_of,
    training_batches,
)
from cardiojax.data.split import Split, default_validation, joined, open_pair, open_split, usable

__all__ = ["Reading", "Split", "default_validation", "endless", "evaluation_batches", "joined", "max_slices",
           "one_ahead", "open_pair", "open_split", "sample_of", "training_batches", "usable"]
