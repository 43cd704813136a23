"""A study's predicted volumes with deviations, and the reasons why a person should look at it."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtr

from cardiojax import __version__
from cardiojax.files import cell
from cardiojax.models.curve import Curve
from cardiojax.study import Study

# A study is referred to a person …
MIN_SLICES = 6             # with fewer slices, as in ukbb_cardiac's quality control
MIN_SPAN_MM = 60.0         # where they span less: of ACDC's and DSB's whole stacks one in fifty does
APEX_SHARE = 0.5           # where the last slice's LV has more of the largest: in whole stacks it has at most 0.4
FAR = 2.0                  # this many times farther from the training studies than any validation study was
WIDE_EF_PERCENT = 15.0     # where the deviation of EF is larger


@dataclasses.dataclass(frozen=True)
class Prediction:
    """LV volumes of one study with standard deviations; `refer` where a person should look, with `reasons`.

    The fields but for the last two, and then what is in `DERIVED`, are the columns of every CSV of predictions.
    Volumes count papillary muscles and trabeculae as blood, as the masks do that the models learn from.

    p_ef_below_40, p_ef_below_50: probabilities, of a normal distribution with these deviations.
    ed_frame, es_frame: 1-based phases of the cine that were measured, None where the study has two frames alone.
    rv_edv_ml … peak_filling_ml_per_s: None of models that do not see the RV or the myocardium, and of studies that were
        no cine with known times. model: the run's name.
    study: as it was measured, prepared, with the masks that were seen in it; curve: the volumes over the cine.
    """

    study_id: str
    edv_ml: float
    esv_ml: float
    ef_percent: float
    edv_std_ml: float
    esv_std_ml: float
    ef_std_percent: float
    refer: bool = False
    reasons: str = ""
    p_ef_below_40: float = math.nan
    p_ef_below_50: float = math.nan
    ed_frame: int | None = None
    es_frame: int | None = None
    rv_edv_ml: float | None = None
    rv_esv_ml: float | None = None
    lv_mass_g: float | None = None
    peak_ejection_ml_per_s: float | None = None
    peak_filling_ml_per_s: float | None = None
    sv_std_ml: float | None = None
    model: str = ""
    study: Study | None = dataclasses.field(default=None, repr=False, compare=False)
    curve: Curve | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def sv_ml(self) -> float:
        return self.edv_ml - self.esv_ml

    @property
    def rv_ef_percent(self) -> float | None:
        return None if not self.rv_edv_ml or self.rv_esv_ml is None else 100 * (1 - self.rv_esv_ml / self.rv_edv_ml)

    @property
    def heart_rate_bpm(self) -> float | None:
        return None if self.study is None else self.study.patient.heart_rate_bpm

    @property
    def cardiac_output_l_per_min(self) -> float | None:
        return None if self.heart_rate_bpm is None else self.sv_ml * self.heart_rate_bpm / 1000

    @property
    def bsa_m2(self) -> float | None:
        return None if self.study is None else self.study.patient.bsa_m2

    @property
    def edv_index_ml_per_m2(self) -> float | None:
        return self._by_surface(self.edv_ml)

    @property
    def esv_index_ml_per_m2(self) -> float | None:
        return self._by_surface(self.esv_ml)

    @property
    def sv_index_ml_per_m2(self) -> float | None:
        return self._by_surface(self.sv_ml)

    @property
    def lv_mass_index_g_per_m2(self) -> float | None:
        return self._by_surface(self.lv_mass_g)

    def _by_surface(self, value: float | None) -> float | None:
        return None if value is None or self.bsa_m2 is None else value / self.bsa_m2

    @property
    def slices(self) -> int | None:
        return None if self.study is None else len(self.study)

    @property
    def slice_spacing_mm(self) -> float | None:
        return None if self.study is None else float(self.study.slice_spacing_mm)

    @property
    def version(self) -> str:
        return __version__

    def row(self) -> dict[str, str]:
        """As the CSVs hold it: two decimals, `refer` 0 or 1, nothing for None, text as a `cell`."""
        def text(value):
            if isinstance(value, float):
                return f"{value:.2f}"
            if isinstance(value, str):
                return cell(value)
            return "" if value is None else str(int(value))

        return {c: text(getattr(self, c)) for c in COLUMNS}


DERIVED = ("sv_ml", "heart_rate_bpm", "cardiac_output_l_per_min", "bsa_m2", "edv_index_ml_per_m2",
           "esv_index_ml_per_m2", "sv_index_ml_per_m2", "lv_mass_index_g_per_m2", "slices", "slice_spacing_mm",
           "version", "rv_ef_percent", "sv_std_ml")               # at the end, as all that is new
COLUMNS = (*(f.name for f in dataclasses.fields(Prediction) if f.compare and f.name not in DERIVED), *DERIVED)


def ef_with_std(mean_ml: Float[Array, "b 2"], std_ml: Float[Array, "b 2"], correlation: Float[Array, ""]
                ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """EF and its standard deviation (percent) of EDV and ESV with theirs, by the delta method; NaN where EDV is not
    positive. correlation: of the errors of both."""
    edv = jnp.where(mean_ml[:, 0] > 0, mean_ml[:, 0], jnp.nan)
    ratio = mean_ml[:, 1] / edv
    variance = (std_ml[:, 1]**2 + (ratio * std_ml[:, 0])**2
                - 2 * correlation * ratio * std_ml[:, 0] * std_ml[:, 1])
    return 100 * (1 - ratio), 100 / edv * jnp.sqrt(jnp.maximum(variance, 0.0))


def difference_std(std_ml: Float[np.ndarray, "2"], correlation: float | Float[np.ndarray, ""]) -> float:
    """Of EDV − ESV, of their standard deviations and the correlation of their errors."""
    a, b = map(float, std_ml)
    return math.sqrt(max(a * a + b * b - 2 * float(correlation) * a * b, 0.0))


def p_below(limit: float, mean: float, std: float) -> float:
    """The probability of a value below `limit` under a normal distribution."""
    return float(ndtr((limit - mean) / std))


def reasons_to_refer(study: Study, *, mean_ml: Sequence[float] | Float[np.ndarray, "2"], ef_std_percent: float,
                     distance: float, ed_area: Sequence[float] | Float[np.ndarray, " s"] | None) -> list[str]:
    """Why a person should look at a study, beside its own notes.

    mean_ml: predicted (EDV, ESV). distance: from the training studies, 1 for the farthest validation study.
    ed_area: each slice's LV area at ED in any unit, base → apex; None where the network was not taught areas.
    """
    span_mm = len(study) * study.slice_spacing_mm
    apex = 0.0
    if ed_area is not None and len(study) > 1 and max(ed_area) > 0:
        apex = float(ed_area[-1] / max(ed_area))
    checks = (
        (len(study) < MIN_SLICES, f"{len(study)} slices, fewer than {MIN_SLICES}"),
        (span_mm < MIN_SPAN_MM, f"the slices span {span_mm:.0f} mm, too little for base to apex"),
        (apex > APEX_SHARE,
         f"the apex seems to be missing (LV area of the last slice is {apex:.0%} of the largest)"),
        (not 0 <= mean_ml[1] < mean_ml[0], "predicted volumes are not physiological"),
        (distance > FAR, f"unlike the training studies ({distance:.1f} times as far as any validation study)"),
        (ef_std_percent > WIDE_EF_PERCENT, f"EF is uncertain (± {ef_std_percent:.0f} points)"))
    return [*study.notes, *(reason for found, reason in checks if found)]
