"""The notebooks, executed on runs as the demo leaves them (the third one: `experiment_test`)."""

import pytest

from cardiojax.cli.main import main

SFERA = ["--width", "2", "--spatial-features", "6", "--lstm-features", "5", "--views", "1"]
GAUGAN = ["--ngf", "2", "--hidden", "4", "--ndf", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task", "run", "settings", "pictures"), [
    ("1_load_a_run", "sfera", "rsp_uniform_phantom_ukb_like_0_digest", SFERA, 2),
    ("2_images_from_masks", "gaugan", "gaugan_digest", GAUGAN, 5)])
def test_notebook(name, task, run, settings, pictures, phantom_data, tmp_path, pictures_of):
    assert main(["train", task, "--preset", "tiny", "--data", "phantom/dsb_like:train", "--data-dir", str(phantom_data),
                 "--run", str(tmp_path / "stages" / run), "--batch", "8", "--steps", "2", "--evaluate-every", "2",
                 *settings]) == 0
    assert pictures_of(name, tmp_path) == pictures
