"""Contours and a SFERA as one: shares by hand, their disagreement, the command line."""

import dataclasses

import numpy as np
import pytest

from cardiojax.errors import DataError
from cardiojax.models.contours import ContoursModel
from cardiojax.models.hybrid import Blend, HybridModel, blended
from cardiojax.models.prediction import Prediction
from cardiojax.models.sfera import SferaModel
from cardiojax.study import Study
from cardiojax.train.hybrid import fit, share


def test_the_share_with_the_least_error_by_hand():
    """Independent errors of variances 1 and 3: three quarters. One that is always worse by the same noise: nothing."""
    a, b = np.array([1.0, -1, 1, -1]), np.sqrt(3) * np.array([1.0, 1, -1, -1])
    assert share(a, b) == pytest.approx(0.75)
    assert share(2 * a, a) == 0
    assert share(a, a) == 0.5


def test_a_blend_is_better_than_both_and_says_by_how_much():
    rng = np.random.default_rng(0)
    truth = np.column_stack([rng.uniform(120, 250, 3000), rng.uniform(40, 100, 3000)])
    said = np.full((3000, 2), 2.0)
    first, second = (np.column_stack([truth + size * rng.standard_normal((3000, 2)), said]) for size in (4.0, 8.0))
    found = fit(first, second, truth)
    np.testing.assert_allclose(found.weight, 0.8, atol=0.03)
    mean, std, _, _ = blended(first, second, found)
    rmse = np.sqrt(((mean - truth)**2).mean(0))
    np.testing.assert_allclose(rmse, np.sqrt(0.64 * 16 + 0.04 * 64), rtol=0.05)
    np.testing.assert_allclose(std[0], rmse, rtol=0.05)
    with pytest.raises(DataError, match="5 or more"):
        fit(first[:4], second[:4], truth[:4])


def saying(kind, prediction):
    """A model of this kind that says the same of every study."""
    def predictions(self, studies, fill_to=0, slices=0):
        return iter([dataclasses.replace(prediction, study_id=s.study_id, study=s) for s in studies])

    return type("Saying", (kind,), {"__init__": lambda self: None, "predictions": predictions,
                                    "mean_predictor": np.zeros(3)})()


@pytest.mark.parametrize(("ef", "apart"), [(46.0, False), (70.0, True), (float("nan"), True)])
def test_disagreement_is_a_reason_to_refer(ef, apart):
    study = Study("a", np.zeros((8, 150, 150, 2), np.uint8), 10.0)
    contours = saying(ContoursModel, Prediction("", 200.0, 100.0, 50.0, 4.0, 4.0, 2.0, True, "2 gaps"))
    sfera = saying(SferaModel, Prediction("", 100.0, 54.0, ef, 8.0, 8.0, 5.0, True,
                                          "unlike the training studies; 2 gaps"))
    blend = Blend(np.array([0.75, 0.5]), np.array([2.0, 2, 1]), np.float32(0), np.float32(4))
    p = HybridModel(contours, sfera, blend).predict(study)
    assert (p.edv_ml, p.esv_ml) == (175, 77)
    assert p.ef_percent == pytest.approx(56)
    assert (p.edv_std_ml, p.esv_std_ml) == (10, 12)
    assert p.reasons.startswith("2 gaps; unlike the training studies")
    assert ("disagree" in p.reasons) == apart
