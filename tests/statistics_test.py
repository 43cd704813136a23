"""Statistics against published and hand-worked numbers."""

import csv

import numpy as np
import pytest
from scipy import stats

from cardiojax.evaluate import metrics, statistics
from cardiojax.experiment import comparison
from cardiojax.train import calibration


def test_icc_of_shrout_and_fleiss():
    """Their Table 1 has 6 targets and 4 judges; of two judges, by the formula on hand-worked mean squares."""
    a, b = np.array([9.0, 6, 8, 7, 10, 6]), np.array([2.0, 1, 4, 1, 5, 2])
    rows, columns, error = 4.683333, 80.083333, 0.683333        # mean squares of the two-way table
    assert metrics.icc(a, b) == pytest.approx((rows - error) / (rows + error + 2 * (columns - error) / 6), abs=1e-5)
    assert metrics.icc(a, a) == pytest.approx(1)
    assert metrics.icc(a, a + 5) < 0.5                       # a bias is no agreement


def test_compared_by_hand():
    before = np.array([[4.0, -4, 4, -4, 5, 3, -2, 6]])
    halved = statistics.compared(before, before / 2)
    assert halved["rmse_ratio"] == pytest.approx(0.5)
    assert halved["rmse_ratio_ci95"] == pytest.approx([0.5, 0.5])
    assert halved["wilcoxon_p"] == pytest.approx(2 / 2**8)       # all eight are smaller: exact, two-sided
    assert statistics.verdict(halved["rmse_ratio_ci95"]) == "better"
    assert statistics.verdict((0.9, 1.1)) == "not decided"
    two_seeds = statistics.compared(np.vstack([before, before]), np.vstack([before, 0 * before]))
    assert two_seeds["rmse_ratio"] == pytest.approx(np.sqrt(0.5))
    undefined = np.where(np.arange(8) < 7, np.nan, before)
    assert np.isnan(statistics.compared(before, undefined)["rmse_ratio_ci95"]).all()


def test_the_interval_draws_studies_and_seeds():
    """Errors of 1 before; 1 and 3 after, over two studies or over two seeds: either way resamples of (1, 1), (1, 3),
    (3, 1) and (3, 3), ratios 1, √5, √5 and 3."""
    studies = statistics.compared(np.ones((1, 2)), np.array([[1.0, 3]]))
    seeds = statistics.compared(np.ones((1, 2)), np.array([[1.0, 1], [3, 3]]))
    for found in (studies, seeds):
        assert found["rmse_ratio"] == pytest.approx(5**0.5)
        assert found["rmse_ratio_ci95"] == pytest.approx([1, 3])
    assert statistics.compared(np.array([[1.0, 1], [3, 3]]), np.ones((1, 2)))["rmse_ratio_ci95"] == pytest.approx(
        [1 / 3, 1])                                                  # the seeds of either side
    both = statistics.compared(np.ones((2, 2)), np.array([[1.0, 2], [2, 4]]))["rmse_ratio_ci95"]
    assert both == pytest.approx([1, 4])                             # at once: errors of 1 to 4


def test_one_seed_leaves_the_interval_to_the_studies():
    """The same seed twice says no more of the seeds; and the errors are paired: equal ones cancel in every resample."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 1, 60))
    once, twice = (statistics.ratio_ci95(before, np.vstack([after] * k)) for k in (1, 2))
    of_means = [np.sqrt((after[0, s]**2).mean() / (before[0, s]**2).mean()) for s in rng.integers(60, size=(4000, 60))]
    for found in (once, twice):
        assert found == pytest.approx(np.quantile(of_means, [0.025, 0.975]), rel=0.05)
    assert statistics.ratio_ci95(before, 2 * before) == pytest.approx([2, 2])


def test_the_interval_over_folds_draws_folds_and_their_studies():
    """Errors of 1 before; of two folds 1 and 3 after, alike within each: resamples of (1, 1), (1, 3), … (3, 3)."""
    before, after, folds = np.ones(8), np.repeat([1.0, 3], 4), np.repeat([0, 1], 4)
    assert statistics.ratio_ci95_of_folds(before, after, folds) == pytest.approx([1, 3])
    over = statistics.compared(before[None], after[None], folds)
    assert over["rmse_ratio_ci95"] == pytest.approx([1, 3])
    assert over["rmse_ratio"] == pytest.approx(5**0.5)
    one = statistics.ratio_ci95_of_folds(before, after, np.zeros(8, int))        # as independent studies: narrower
    assert 1 < one[0] < one[1] < 3
    assert one == pytest.approx(statistics.ratio_ci95(before[None], after[None]), rel=0.1)


def test_crps_of_a_step():
    """A certain prediction that is 6 ml off scores 6 / 600; a wide one is worse than a fitting one."""
    one = np.ones(1)
    assert statistics.crps(100.5 * one, 0 * one, 106.5 * one) == pytest.approx(6 / 600)
    assert statistics.crps(100 * one, 10 * one, 105 * one) < statistics.crps(100 * one, 60 * one, 105 * one)


def test_recalibrated_deviations_cover():
    rng = np.random.default_rng(0)
    std = rng.uniform(1, 3, 4000)
    errors = 2.5 * std * rng.standard_normal(4000)
    assert statistics.coverage(errors, std)["95%"] < 0.7
    factor = calibration.recalibration(errors, std)
    assert factor == pytest.approx(2.5, rel=0.05)
    for level, share in zip((0.5, 0.8, 0.95), statistics.coverage(errors, factor * std).values(), strict=True):
        assert share == pytest.approx(level, abs=0.02)
    assert statistics.coverage(np.array([0.67, 0.68, 1.28, 1.29]), np.ones(4)) == {"50%": 0.25, "80%": 0.75, "95%": 1.0}
    assert stats.norm.ppf(0.75) == pytest.approx(0.6745, abs=1e-4)


def test_ef_classes_hold_their_upper_limit():
    result = statistics.ef_classes(np.array([40.0, 41, 55, 70]), np.array([40.0, 39, 50, 60]))
    assert result["counts"] == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert result["accuracy"] == 0.5


def test_an_experiment_is_compared_on_the_same_studies(tmp_path):
    """Errors of ± 10 points with RSO, ± 8 with RSO-long and ± 5 with pretraining, in another order of the studies.
    Deviations of 10 are twice the ridge's own: of errors of ± 10, the raw ones hold none within 80 %."""
    def evaluated(run, error, updates, factor=(2, 2, 2), reverse=False):
        folder = tmp_path / run / "evaluations" / "d_test"
        folder.mkdir(parents=True)
        rows = [{"study_id": f"{i:02d}", **{c: 50 + error * (-1)**i for c in comparison.COLUMNS},
                 **{f"true_{c}": 50 for c in comparison.COLUMNS}, **dict.fromkeys(comparison.STDS, 10)}
                for i in range(12)][::-1 if reverse else 1]
        with (folder / "predictions.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        calibration = {"calibration/factor": np.array(factor, np.float32), "calibration/far": np.float32(1)}
        np.savez(tmp_path / run / "model.npz", **(calibration if factor else {}))
        figures = metrics.agreement(np.array([50.0 + error, 50 - error]), np.array([50.0, 50]))
        return {"seed": 0, "run": run, "updates": updates, **dict.fromkeys(metrics.MEASURES, figures)}

    datasets = {"d": {"RSO": [evaluated("a", 10, 7)], "RSP": [evaluated("b", 5, 21, reverse=True)],
                      "RSA": [evaluated("old", 10, 7, factor=())]}}
    early = comparison.compare(tmp_path, datasets)                 # RSO-long is not there yet
    assert "against" not in early["d"]["RSP"]
    assert early["d"]["RSP"]["against_extra"]["ef"]["rmse_ratio"] == pytest.approx(0.5)
    assert comparison.primary_endpoint("d", early)["result"] is None
    datasets["d"]["RSO-long"] = [evaluated("c", 8, 21)]
    comparisons = comparison.compare(tmp_path, datasets)
    result = comparisons["d"]
    assert "against" not in result["RSO"]
    assert result["RSP"]["summary"]["ef"]["rmse"] == pytest.approx(5)
    assert result["RSP"]["summary"]["ef"]["mae_ci95"] == pytest.approx([5, 5])
    assert result["RSP"]["against"]["baseline"] == "RSO-long"
    assert result["RSP"]["updates"] == result["RSO-long"]["updates"] == 21
    assert result["RSP"]["against"]["ef"]["rmse_ratio"] == pytest.approx(5 / 8)
    assert result["RSP"]["against"]["ef"]["verdict"] == "better"
    assert result["RSP"]["against_extra"]["ef"]["rmse_ratio"] == pytest.approx(0.5)
    assert result["RSO-long"]["against"]["baseline"] == result["RSA"]["against"]["baseline"] == "RSO"
    endpoint = comparison.primary_endpoint("d", comparisons)
    assert endpoint["result"] == {"seeds": [0], **result["RSP"]["against"]["ef"]}
    calibration = result["RSO"]["calibration"]["ef"]
    assert calibration["factor"] == 2
    assert (calibration["coverage_raw"]["80%"], calibration["coverage"]["80%"]) == (0, 1)
    volumes = result["RSO"]["calibration"]["edv"]
    assert volumes["crps_raw"] > volumes["crps"]
    assert result["RSA"]["calibration"]["ef"]["coverage_raw"] == result["RSA"]["calibration"]["ef"]["coverage"]
