"""The notebooks that start from models that ship, executed (the second: `cli_test`; the fourth: `experiment_test`)."""

import pytest


@pytest.mark.slow
def test_a_study_is_measured_and_looked_at(tmp_path, pictures_of):
    assert pictures_of("1_measure_a_study", tmp_path, optimised=True) == 2


@pytest.mark.slow
def test_a_model_that_ships_is_finetuned_on_volumes(tmp_path, pictures_of, monkeypatch):
    monkeypatch.setenv("CARDIOJAX_STEPS", "2")
    monkeypatch.setenv("CARDIOJAX_STUDIES", "8")
    assert pictures_of("3_finetune_on_volumes", tmp_path) == 1
