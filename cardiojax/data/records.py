"""The one record schema: a prepared `Study` ↔ a TFDS example. Every builder writes it, `split.py` reads it."""

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from cardiojax.preparation import SIZE_PX, is_prepared
from cardiojax.study import Study

STACK = (None, SIZE_PX, SIZE_PX, 2)


def features() -> tfds.features.FeaturesDict:
    """Field names and types; `masks` has no slices where there are none, `volumes_ml` is NaN where unknown."""
    return tfds.features.FeaturesDict({
        "study_id": tfds.features.Text(),
        "frames": tfds.features.Tensor(shape=STACK, dtype=np.uint8, encoding="bytes"),
        "masks": tfds.features.Tensor(shape=STACK, dtype=np.uint8, encoding="zlib"),
        "slice_spacing_mm": tfds.features.Scalar(dtype=np.float32),
        "pixel_spacing_mm": tfds.features.Scalar(dtype=np.float32),
        "volumes_ml": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        "source": tfds.features.Text(),
        "ancestor": tfds.features.Text(),
    })


def encode(study: Study) -> dict:
    """A prepared study (uint8, 150 × 150 at 1 mm) as a record. Raises ValueError for one not prepared."""
    if not is_prepared(study):
        raise ValueError(f"study {study.study_id} is not prepared: {study.frames.dtype} {study.frames.shape} at "
                         f"{study.pixel_spacing_mm} mm")
    unknown = np.full(2, np.nan)
    return {
        "study_id": study.study_id,
        "frames": study.frames,
        "masks": np.zeros((0, *STACK[1:]), np.uint8) if study.masks is None else study.masks,
        "slice_spacing_mm": study.slice_spacing_mm,
        "pixel_spacing_mm": study.pixel_spacing_mm[0],
        "volumes_ml": np.asarray(unknown if study.volumes_ml is None else study.volumes_ml, np.float32),
        "source": study.source,
        "ancestor": study.ancestor,
    }


def serialise(study: Study) -> bytes:
    """A prepared study as the bytes of a TFDS example, the same in every process (a proto's own order is not)."""
    schema = features()
    proto = ExampleSerializer(schema.get_serialized_info()).get_tf_example(schema.encode_example(encode(study)))
    return proto.SerializeToString(deterministic=True)


def decode(record: dict) -> Study:
    """The study of a record read back through TFDS."""
    text = {k: v.decode() if isinstance(v := record[k], bytes) else str(v)
            for k in ("study_id", "source", "ancestor")}
    volumes = np.asarray(record["volumes_ml"], np.float32)
    masks = np.asarray(record["masks"])
    return Study(
        **text, frames=np.asarray(record["frames"]), masks=masks if len(masks) else None,
        slice_spacing_mm=float(record["slice_spacing_mm"]),
        pixel_spacing_mm=(float(record["pixel_spacing_mm"]),) * 2,
        volumes_ml=None if np.isnan(volumes).all() else volumes)
