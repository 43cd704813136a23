"""A measuring model that knows the truth but for an error, in place of a trained one."""

import numpy as np

from cardiojax.models.prediction import Prediction
from cardiojax.models.sfera import SferaModel
from cardiojax.units import ef_percent


class Oracle(SferaModel):
    """ESV is wrong by a share `error`, alternating in sign, so that it is not the truth's SD; EDV by a tenth of it."""

    def __init__(self, run, error: float):
        self.path, self.settings, self.mean_predictor = run, {"seed": 0}, np.array([150.0, 60, 60])
        self.error = error

    def predict_many(self, split, batch=8, slices=0):
        for i, study in enumerate(split):
            edv, esv = study.volumes_ml * (1 + self.error * np.array([0.1, (-1)**i]))
            yield study, Prediction(study.study_id, edv, esv, float(ef_percent(edv, esv)), 5.0, 5.0, 4.0)
