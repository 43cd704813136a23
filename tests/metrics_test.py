import numpy as np
import pytest
from sklearn.linear_model import BayesianRidge

from cardiojax.evaluate.metrics import Accumulator, agreement, bootstrap_ci95
from cardiojax.models import ridge
from cardiojax.models.sfera import Readout, Scaling, volumes_of
from cardiojax.train.ridge import fit as fit_ridge
from cardiojax.train.sfera import calibrated


def test_agreement_by_hand():
    """Errors 1, −1, 3, 1: RMSE √3, MAE 1.5, bias 1, SD √(8/3)."""
    result = agreement(np.array([11.0, 19, 33, 41]), np.array([10.0, 20, 30, 40]))
    assert result["rmse"] == pytest.approx(3**0.5)
    assert result["mae"] == pytest.approx(1.5)
    assert result["bias"] == pytest.approx(1.0)
    assert result["sd"] == pytest.approx((8 / 3) ** 0.5)
    assert result["loa"] == pytest.approx([1 - 1.96 * (8 / 3) ** 0.5, 1 + 1.96 * (8 / 3) ** 0.5])
    assert result["mae_ci95"][0] <= 1.5 <= result["mae_ci95"][1]


def test_the_interval_of_a_mean():
    """Of 0 and 1: resamples' means are 0, ½, ½ and 1; the same at every call."""
    assert bootstrap_ci95(np.array([0.0, 1])) == [0, 1]
    assert bootstrap_ci95(np.array([4.0])) == [4, 4]
    assert np.isnan(bootstrap_ci95(np.zeros(0))).all()
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_ci95(values)
    assert (low, high) == tuple(bootstrap_ci95(values))
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_batches_of_unequal_size_weigh_by_study():
    truth = np.array([[100.0, 40], [150, 60], [200, 120]])
    predicted = truth + np.array([[3.0, 0], [0, 0], [0, 6]])
    whole, parts = Accumulator(np.array([150, 60, 55.0])), Accumulator(np.array([150, 60, 55.0]))
    whole.add(predicted, truth)
    parts.add(predicted[:1], truth[:1])
    parts.add(predicted[1:], truth[1:])
    assert whole.result() == parts.result()
    assert whole.result()["edv"]["rmse"] == pytest.approx(3**0.5)
    assert whole.result()["edv"]["rmse_mean_predictor"] == pytest.approx((5000 / 3) ** 0.5)


def test_ridge_in_jax_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 7))
    y = x @ rng.normal(size=(7, 2)) + rng.normal(0, 0.3, (40, 2)) + 5
    mean, std = fit_ridge(x, y).predict(x[:9].astype(np.float32))
    for k in range(2):
        expected = BayesianRidge().fit(x, y[:, k]).predict(x[:9], return_std=True)
        np.testing.assert_allclose(mean[:, k], expected[0], rtol=1e-4)
        np.testing.assert_allclose(std[:, k], expected[1], rtol=1e-3)


def test_ef_deviation_meets_sampling():
    """The delta method against 400,000 draws of correlated EDV and ESV."""
    fitted = ridge.Ridge(*(np.asarray(a, np.float32) for a in (
        np.zeros((2, 1)), [0.5, 0.2], [0.0], np.zeros((2, 1, 1)), [0.02**2, 0.015**2], 0.6)))
    scaling = Scaling(np.zeros(2, np.float32), np.full(2, 30, np.float32))
    mean, std, ef, ef_std, _ = (np.asarray(a)[0] for a in volumes_of(
        Readout(fitted, ridge.UNCALIBRATED, scaling), np.zeros((1, 1), np.float32), np.array([10.0], np.float32)))
    np.testing.assert_allclose(mean, [150, 60], rtol=1e-5)
    np.testing.assert_allclose(std, [6, 4.5], rtol=1e-4)
    assert ef == pytest.approx(60, abs=1e-3)
    covariance = [[36, 0.6 * 27], [0.6 * 27, 4.5**2]]
    edv, esv = np.random.default_rng(0).multivariate_normal([150, 60], covariance, 400_000).T
    assert ef_std == pytest.approx((100 * (1 - esv / edv)).std(), rel=0.02)


def test_deviations_are_calibrated_on_studies_kept_aside():
    """Noise known to the ridge as 1 and 2; the errors kept aside are three and five times as large."""
    rng = np.random.default_rng(0)
    fitted = ridge.Ridge(*(np.asarray(a, np.float32) for a in (
        np.eye(2), [100, 40], [0.0, 0.0], np.stack([0.01 * np.eye(2)] * 2), [1.0, 4.0], 0.0)))
    scaling, x = Scaling(np.zeros(2, np.float32), np.ones(2, np.float32)), rng.normal(size=(4000, 2))
    std = np.sqrt(0.01 * (x**2).sum(1)[:, None] + [1, 4])
    truth = x + [100, 40] + rng.normal(size=x.shape) * std * [3, 5]
    found = calibrated(fitted, scaling, x.astype(np.float32), truth, np.ones(4000, np.float32))
    np.testing.assert_allclose(found.factor[:2], [3, 5], rtol=0.03)
    assert found.far == pytest.approx(0.01 * (x**2).sum(1).max(), rel=1e-4)
    mean, std_ml, _, ef_std, distance = volumes_of(Readout(fitted, found, scaling), x.astype(np.float32),
                                                       np.ones(4000, np.float32))
    np.testing.assert_allclose(std_ml, std * found.factor[:2], rtol=1e-4)
    assert float(distance.max()) == pytest.approx(1, rel=1e-5)
    error = (100 * (1 - mean[:, 1] / mean[:, 0]) - 100 * (1 - truth[:, 1] / truth[:, 0])) / ef_std
    assert float((error**2).mean()) == pytest.approx(1, rel=1e-3)
    assert calibrated(fitted, scaling, x[:1], truth[:1], np.ones(1, np.float32)) is ridge.UNCALIBRATED


def test_an_undefined_ef_is_counted_and_left_out():
    result = agreement(np.array([50.0, np.nan, 64]), np.array([50.0, 60, 60]))
    assert result["undefined"] == 1
    assert result["rmse"] == pytest.approx(8**0.5)
    nothing = agreement(np.array([np.nan]), np.array([50.0]))
    assert np.isnan(nothing["rmse"])
    assert nothing["undefined"] == 1
