"""Judging synthetic images: distances worked by hand, and a generator that returns the real images is perfect."""

import jax
import numpy as np
import pytest

from cardiojax import data
from cardiojax.config import GauganNetConfig, SferaConfig, SferaNetConfig
from cardiojax.errors import RunError
from cardiojax.evaluate import fidelity
from cardiojax.evaluate import judge as judging
from cardiojax.evaluate.metrics import ssim
from cardiojax.models.gaugan import GauganModel
from cardiojax.models.ridge import UNCALIBRATED
from cardiojax.models.sfera import Readout, Scaling, SferaModel, new_network
from cardiojax.nets import vgg
from cardiojax.train.ridge import fit as fit_ridge


def untrained() -> SferaModel:
    """A SFERA of random weights, with a ridge fitted to noise: it looks at images, that is all it is for."""
    net = SferaNetConfig(size_px=75, width=2, spatial_features=6, lstm_features=5, dropout=0.0)
    _, params, stats = new_network(net, jax.random.key(0))
    rng = np.random.default_rng(0)
    readout = Readout(fit_ridge(rng.normal(size=(40, 10)), [0.8, 0.4] + 0.1 * rng.normal(size=(40, 2))), UNCALIBRATED,
                      Scaling(np.zeros(2, np.float32), np.full(2, 20, np.float32)))
    return SferaModel(SferaConfig(net=net, views=1), params, stats, readout, np.zeros(3))


def test_frechet_of_two_known_clouds():
    """Same covariance, means 3 apart: 9. Same mean, deviations 1 and 2 in d dimensions: d · (2 − 1)²."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 4))
    assert fidelity.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert fidelity.frechet(a, a + np.array([3, 0, 0, 0])) == pytest.approx(9, rel=1e-6)
    centred = a - a.mean(0)
    assert fidelity.frechet(centred, 2 * centred) == pytest.approx(np.trace(np.cov(a, rowvar=False)), rel=1e-6)


def test_kernel_by_hand():
    """Two points each, one feature: k(x, y) = (xy + 1)³."""
    a, b = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    # within a: k(0,1) = 1; within b: k(1,2) = 27; across: (1 + 1 + 8 + 27) / 4
    assert fidelity.kernel(a, b) == pytest.approx(1 + 27 - 2 * 37 / 4)


def test_ssim_by_hand():
    image = np.random.default_rng(0).uniform(-1, 1, (32, 32))
    assert ssim(image, image) == pytest.approx(1)
    a, b, c1 = 0.5, 0.25, 0.02**2
    assert ssim(np.full((32, 32), a), np.full((32, 32), b)) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1))


def test_lpips_is_zero_for_equal_images_and_weighs_the_layers():
    rng, key = np.random.default_rng(0), jax.random.key(0)
    weights, fin = {}, 3
    for block, (depth, width) in enumerate(zip((2, 2, 3, 3, 3), (4, 4, 6, 6, 6), strict=True), 1):
        for i in range(1, depth + 1):
            weights |= {f"conv{block}_{i}/kernel": jax.random.normal(key, (3, 3, fin, width)) / 5,
                        f"conv{block}_{i}/bias": np.zeros(width, np.float32)}
            fin = width
    weights |= {f"lpips/{i}": np.ones(w, np.float32) for i, w in enumerate((4, 4, 6, 6, 6))}
    a, b = rng.uniform(-1, 1, (2, 2, 32, 32)).astype(np.float32)
    assert np.asarray(fidelity.lpips(weights, a, a)[0]) == pytest.approx([0, 0])
    distance = np.asarray(fidelity.lpips(weights, a, b)[0])
    assert (distance > 0).all()
    doubled = weights | {f"lpips/{i}": 2 * weights[f"lpips/{i}"] for i in range(5)}
    np.testing.assert_allclose(fidelity.lpips(doubled, a, b)[0], 2 * distance, rtol=1e-5)


def test_vgg_activations_stop_where_they_may():
    weights = {f"conv1_{i}/{p}": np.ones(s, np.float32) for i, fin in ((1, 3), (2, 2))
               for p, s in (("kernel", (3, 3, fin, 2)), ("bias", (2,)))}
    first, second = vgg.activations(weights, np.ones((1, 5, 5, 3), np.float32), ("relu1_1", "relu1_2"))
    assert float(first[0, 2, 2, 0]) == 28                       # 27 ones and the bias
    assert float(second[0, 2, 2, 0]) == 9 * 2 * 28 + 1
    with pytest.raises(ValueError, match="no such"):
        vgg.activations(weights, np.ones((1, 5, 5, 3), np.float32), ("relu4_1",))


@pytest.mark.slow
def test_the_real_images_are_judged_perfect(phantom_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CARDIOJAX_WEIGHTS", str(tmp_path / "none"))
    judge = judging.Judge(untrained(), data.open_split("phantom/dsb_like:validation", phantom_data))
    known = {s.masks[..., t].tobytes(): s.frames[..., t] for s in judge.studies for t in (0, 1)}

    class Known(GauganModel):
        """Gives the real images of masks that it knows, changed."""

        def __init__(self, change):
            self.net, self.change = GauganNetConfig(size_px=150), change

        def stacks(self, masks, style=None):
            return [self.change(np.stack([known[m[..., t].tobytes()] for t in (0, 1)], -1) / np.float32(127.5) - 1)
                    for m in masks]

    result = judge.judge(Known(lambda x: x))
    assert result["frechet"] == pytest.approx(0, abs=1e-5)
    assert result["ssim"] == pytest.approx(1)
    assert result["lpips"] is None
    for key in ("background_change", "slice_change"):
        assert result[key]["synthetic"] == result[key]["real"] > 0
    for name in ("edv", "esv", "ef"):
        assert result["volume_fidelity"][name]["rmse"] == pytest.approx(0, abs=1e-4)
    worse = judge.judge(Known(lambda x: np.clip(2 * x, -1, 1)))
    assert worse["frechet"] > result["frechet"]
    assert worse["ssim"] < 1
    assert worse["volume_fidelity"]["edv"]["rmse"] > 1e-3
    assert judge.sampled is judge                              # there are few enough
    monkeypatch.setattr(judging, "SAMPLED_STUDIES", 2)
    few = judging.Judge(judge.model, judge.split).sampled
    assert {s.study_id for s in few.studies} < {s.study_id for s in judge.studies}
    assert few.judge(Known(lambda x: x))["frechet"] == pytest.approx(0, abs=1e-5)


def test_a_judge_needs_a_sfera_run(phantom_data, tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        judging.Judge(tmp_path, data.open_split("phantom/dsb_like:validation", phantom_data))
