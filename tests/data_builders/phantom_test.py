import numpy as np
import tensorflow_datasets as tfds

import data_builders  # noqa: F401
from cardiojax import phantom
from cardiojax.units import ef_percent


def test_tfds_finds_it_and_reads_its_schema(phantom_data):
    builder = tfds.builder("phantom/dsb_like", data_dir=phantom_data)
    assert {n: s.num_examples for n, s in builder.info.splits.items()} == {"train": 12, "validation": 4, "test": 4}
    record = builder.as_data_source("test")[0]
    assert set(record) == {"study_id", "frames", "masks", "slice_spacing_mm", "pixel_spacing_mm", "volumes_ml",
                           "source", "ancestor"}
    assert record["frames"].dtype == np.uint8
    assert "cardiojax" in builder.info.citation


def test_the_variants_differ_as_the_papers_datasets():
    """EF of 400 sampled hearts: Dataset 1 wide with a tail below 40 %, Dataset 2 narrow (paper, Fig. 1)."""
    ef = {v: np.array([100 * phantom.subject(v, i).ef for i in range(400)]) for v in phantom.VARIANTS}
    assert 9 < ef["dsb_like"].std() < 18
    assert 4 < ef["ukb_like"].std() < 8
    assert 0.06 < (ef["dsb_like"] < 40).mean() < 0.2
    assert (ef["ukb_like"] < 40).mean() < 0.03


def test_measured_volumes_are_near_the_hearts_own():
    for index in range(5):
        edv, esv = phantom.study("ukb_like", index).volumes_ml
        heart = phantom.subject("ukb_like", index)
        assert abs(edv / heart.edv_ml - 1) < 0.12
        assert abs(ef_percent(edv, esv) - 100 * heart.ef) < 9


def test_a_study_is_the_same_for_ever():
    a, b = (phantom.study("dsb_like", 5) for _ in range(2))
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.masks, b.masks)
