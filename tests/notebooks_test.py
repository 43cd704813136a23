"""The first notebook, executed, by the model that ships (the second: `cli_test`; the third: `experiment_test`)."""

import pytest


@pytest.mark.slow
def test_a_study_is_measured_and_looked_at(tmp_path, pictures_of):
    assert pictures_of("1_measure_a_study", tmp_path) == 2
