import nibabel as nib
import numpy as np
import tensorflow_datasets as tfds

import data_builders  # noqa: F401
from cardiojax.cli.main import main
from cardiojax.data import records


def write_patient(folder, phases=5, ed=1, es=3):
    """A cine of noise whose LV has 8 × 8 pixels at `ed` and 5 × 5 at `es` (from 0) on each of six slices."""
    folder.mkdir(parents=True)
    labels = np.zeros((20, 24, 6, phases), np.uint8)
    labels[4:12, 6:14, :, ed] = labels[4:9, 6:11, :, es] = 1
    images = np.random.default_rng(0).uniform(0, 200, labels.shape).astype(np.float32)
    for data, part in ((images, "sa"), (labels, "sa_gt")):
        image = nib.Nifti1Image(data, None)
        image.header.set_zooms((1.5, 1.5, 10.0, 30.0))
        nib.save(image, folder / f"{folder.name}_{part}.nii.gz")


def test_the_challenges_splits_and_the_frames_of_its_masks(tmp_path, capsys):
    for i in range(10):
        write_patient(tmp_path / "in" / "Training" / "Labeled" / f"A{i}")
    write_patient(tmp_path / "in" / "Testing" / "T0", ed=4, es=0)
    bad = tmp_path / "in" / "Training" / "Labeled" / "B0"
    write_patient(bad)
    (bad / "B0_sa_gt.nii.gz").unlink()
    assert main(["build", "mnms", "--source", str(tmp_path / "in"), "--data-dir", str(tmp_path / "out")]) == 1
    assert "study B0: B0_sa_gt.nii.gz is missing" in capsys.readouterr().err
    builder = tfds.builder("mnms", data_dir=tmp_path / "out")
    assert {n: s.num_examples for n, s in builder.info.splits.items()} == {"train": 9, "validation": 1, "test": 1}
    study = records.decode(builder.as_data_source("test")[0])
    np.testing.assert_allclose(study.volumes_ml, [64 * 2.25 * 60 / 1000, 25 * 2.25 * 60 / 1000], rtol=1e-5)
    assert main(["build", "mnms", "--source", str(tmp_path), "--data-dir", str(tmp_path / "none")]) == 2
