import numpy as np
import pytest
import tensorflow_datasets as tfds

import data_builders  # noqa: F401
from cardiojax.cli.main import main
from cardiojax.data import builders, records
from data_builders.acdc import acdc_dataset_builder


def built(source, data_dir, name="acdc"):
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source))
    return builder


def ids(builder, split):
    return {r["study_id"].decode() for r in builder.as_data_source(split)}


def test_volumes_labels_and_held_out_groups(tmp_path, acdc_patient):
    for i in range(1, 21):
        group = "NOR" if i <= 10 else "DCM"
        acdc_patient(tmp_path / "in" / "training" / f"patient{i:03d}", info=f"ED: 1\nES: 2\nGroup: {group}\n")
    builder = built(tmp_path / "in", tmp_path / "out")
    assert {n: s.num_examples for n, s in builder.info.splits.items()} == {"train": 14, "validation": 2, "test": 4}
    splits = [ids(builder, s) for s in ("train", "validation", "test")]
    assert len(set.union(*splits)) == 20
    for part in splits[1:]:
        assert sum(int(p[-3:]) <= 10 for p in part) * 2 == len(part)          # half of each group's share
    study = records.decode(builder.as_data_source("test")[0])
    np.testing.assert_allclose(study.volumes_ml, [64 * 2.25 * 60 / 1000, 25 * 2.25 * 60 / 1000], rtol=1e-5)
    assert set(np.unique(study.masks)) == {0, 1}
    assert study.source == "acdc"


@pytest.mark.parametrize("hold_out", [True, False])
def test_a_scan_that_was_published_twice_is_in_one_split(tmp_path, acdc_patient, hold_out):
    """patient074 and patient076, and nobody else goes elsewhere for it."""
    folders = [acdc_patient(tmp_path / f"patient{i:03d}") for i in range(61, 81)]
    splits = acdc_dataset_builder.split_by_group(folders, hold_out)
    split_of = {f.name: name for name, members in splits.items() for f in members}
    assert split_of["patient074"] == split_of["patient076"] == "train"
    without = acdc_dataset_builder.split_by_group([f for f in folders if f.name != "patient076"], hold_out)
    assert ("test" if hold_out else "train") == {f.name: n for n, m in without.items() for f in m}["patient074"]
    assert len(split_of) == 20
    assert builders.patients([("acdc", "patient074"), ("acdc", "patient075")]) == {
        ("acdc", "patient074"): "acdc/patient076", ("acdc", "patient075"): "acdc/patient075"}


def test_an_official_test_set_is_the_test_split(tmp_path, acdc_patient):
    for i in range(1, 11):
        acdc_patient(tmp_path / "in" / "training" / f"patient{i:03d}")
    acdc_patient(tmp_path / "in" / "testing" / "patient101")
    builder = built(tmp_path / "in", tmp_path / "out")
    assert ids(builder, "test") == {"patient101"}
    assert len(ids(builder, "train")) == 9


def test_trimmed_keeps_base_to_apex(tmp_path, acdc_patient):
    for i in range(1, 6):
        acdc_patient(tmp_path / "in" / "training" / f"patient{i:03d}")
    builder = built(tmp_path / "in", tmp_path / "out", "acdc/trimmed")
    assert builder.builder_config.trimmed
    assert records.decode(builder.as_data_source("train")[0]).masks.any(axis=(1, 2, 3)).all()


@pytest.mark.shared
@pytest.mark.slow
def test_group_means_of_the_published_patients(shared, tmp_path):
    from cardiojax.readers import read_acdc
    from cardiojax.readers.nifti import acdc_info
    from cardiojax.units import ef_percent
    expected = {"NOR": (130.1, 51.7, 60.3), "MINF": (172.2, 119.3, 31.0), "DCM": (284.6, 233.1, 18.4),
                "HCM": (129.1, 42.2, 67.4), "RV": (107.1, 49.0, 54.7)}
    found = {}
    for folder in sorted((shared / "acdc" / "training").glob("patient*")):
        edv, esv = read_acdc(folder).volumes_from_masks_ml()
        found.setdefault(acdc_info(folder)["Group"], []).append((edv, esv, ef_percent(edv, esv)))
    for group, means in expected.items():
        np.testing.assert_allclose(np.mean(found[group], axis=0), means, atol=1.0)


@pytest.mark.slow
def test_beam_writes_the_same_records(tmp_path, acdc_patient, capsys):
    """By Beam's local runner: the same studies in the same order, and the broken one named."""
    pytest.importorskip("apache_beam")
    for i in range(1, 21):
        acdc_patient(tmp_path / "in" / "training" / f"patient{i:03d}")
    acdc_patient(tmp_path / "in" / "training" / "patient021", label=9)
    words = ["build", "acdc", "--source", str(tmp_path / "in"), "--data-dir"]
    assert main([*words, str(tmp_path / "one")]) == 1
    capsys.readouterr()
    assert main([*words, str(tmp_path / "many"), "--beam", "runner=DirectRunner"]) == 1
    assert "1 studies left out: patient021" in capsys.readouterr().err
    for split in ("train", "validation", "test"):
        one, many = (tfds.builder("acdc", data_dir=tmp_path / d).as_data_source(split) for d in ("one", "many"))
        assert len(one) == len(many)
        for a, b in zip(one, many, strict=True):
            assert a["study_id"] == b["study_id"]
            np.testing.assert_array_equal(a["frames"], b["frames"])


def test_beam_is_an_extra(tmp_path, capsys):
    (tmp_path / "patient001").mkdir()
    words = ["build", "acdc", "--source", str(tmp_path), "--data-dir", str(tmp_path / "out"), "--beam", "no value"]
    assert main(words) == 2
    assert "--beam" in capsys.readouterr().err
