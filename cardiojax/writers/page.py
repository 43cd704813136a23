"""A page for each measured study, to look at and to print, and an index of all of them; no file needs another."""

import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import quote

import numpy as np
from contourpy import contour_generator
from jaxtyping import Bool, UInt8
from PIL import Image

from cardiojax.evaluate.figures import curve_figure
from cardiojax.files import text_of, write_text
from cardiojax.models.masks import cleaned
from cardiojax.models.prediction import Prediction
from cardiojax.pages import data_uri, page
from cardiojax.study import Study
from cardiojax.units import LABELS

MARGIN_PX, LEAST_PX = 12, 80               # round the heart, and of a picture's side
# name, value, its deviation, by body surface, unit, healthy range (Petersen et al. 2017, UK Biobank, 45 to 74 years)
NUMBERS = (("End-diastolic volume", "edv_ml", "edv_std_ml", "edv_index_ml_per_m2", "ml", ""),
           ("End-systolic volume", "esv_ml", "esv_std_ml", "esv_index_ml_per_m2", "ml", ""),
           ("Stroke volume", "sv_ml", "sv_std_ml", "sv_index_ml_per_m2", "ml", ""),
           ("Ejection fraction", "ef_percent", "ef_std_percent", "", "%", "women 61 ± 5, men 58 ± 5"),
           ("LV mass", "lv_mass_g", "", "lv_mass_index_g_per_m2", "g", "women 42 ± 7, men 53 ± 9 g/m²"),
           ("Heart rate", "heart_rate_bpm", "", "", "/min", ""),
           ("Cardiac output", "cardiac_output_l_per_min", "", "", "l/min", ""),
           ("RV end-diastolic volume", "rv_edv_ml", "", "", "ml", ""),
           ("RV end-systolic volume", "rv_esv_ml", "", "", "ml", ""),
           ("RV ejection fraction", "rv_ef_percent", "", "", "%", ""),
           ("Peak ejection rate", "peak_ejection_ml_per_s", "", "", "ml/s", ""),
           ("Peak filling rate", "peak_filling_ml_per_s", "", "", "ml/s", ""))


class Said(logging.Handler):
    """What the log says of each study while it is read: a message that begins `study NAME: `, by name."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.lines: dict[str, list[tuple[str, bool]]] = {}

    def emit(self, record: logging.LogRecord):
        first, _, text = record.getMessage().partition(": ")
        if first.startswith("study "):
            self.lines.setdefault(first.removeprefix("study "), []).append(
                (text, record.levelno >= logging.WARNING))

    def of(self, study_id: str) -> list[tuple[str, bool]]:
        """Each line with whether it is a warning; they are forgotten here."""
        return self.lines.pop(study_id, [])


def write_page(prediction: Prediction, folder: Path, said: Sequence[tuple[str, bool]] = ()) -> Path:
    """STUDY.html: numbers with deviations, every slice at ED and ES with the contours that were seen, the volume curve
    of a cine, what the reader `said`, and why a person should look."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / page_name(prediction.study_id)
    write_text(file, page("study.html", title=prediction.study_id, p=prediction, rows=number_rows(prediction),
                          slices=[] if prediction.study is None else slice_pictures(prediction.study),
                          curve=curve_picture(prediction), said=said,
                          reasons=[r for r in prediction.reasons.split("; ") if r]))
    return file


def write_index(rows: Sequence[Mapping[str, str]], failed: Sequence[str], folder: Path) -> Path:
    """index.html: those not measured, those to look at, and then the others, least certain first.

    rows: of the CSV of predictions. failed: why the others could not be measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "study_id": text_of(row["study_id"])} for row in rows]
    ordered = sorted(rows, key=lambda row: (row["refer"] != "1", -float(row["ef_std_percent"] or 0)))
    links = {row["study_id"]: quote(page_name(row["study_id"])) for row in ordered
             if (folder / page_name(row["study_id"])).exists()}
    file = folder / "index.html"
    write_text(file, page("studies.html", title="Studies", rows=ordered, failed=failed, links=links,
                          referred=sum(row["refer"] == "1" for row in ordered)))
    return file


def page_name(study_id: str) -> str:
    """`index` is the index's."""
    return f"{study_id}.html" if study_id != "index" else "index_.html"


def number_rows(p: Prediction) -> list[list[str]]:
    """Name, value with its deviation, by body surface, healthy range; without what is not known."""
    def text(name: str, digits: int = 0) -> str:
        value = getattr(p, name) if name else None
        return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"

    rows = [["", "measured", "per m² body surface", "healthy (mean ± SD)"]]
    for name, value, deviation, index, unit, healthy in NUMBERS:
        digits = 1 if unit in ("%", "l/min") else 0
        if said := text(value, digits):
            std = text(deviation, digits)
            rows.append([name, f"{said}{f' ± {std}' if std else ''} {unit}", text(index), healthy])
    empty = {k for k in range(len(rows[0])) if not any(row[k] for row in rows[1:])}
    return [[cell for k, cell in enumerate(row) if k not in empty] for row in rows]


def slice_pictures(study: Study) -> list[list[dict]]:
    """For each slice those of ED and ES: the side in pixels, the image as a data URI, and a path for every label."""
    masks = None if study.masks is None else cleaned(study.masks)
    rows, columns = window(study, masks)
    pictures = []
    for s in range(len(study)):
        pair = []
        for phase in range(2):
            content = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(study.frames[s, rows, columns, phase])).save(content, "PNG")
            paths = {} if masks is None else {
                LABELS[label]: outline(masks[s, rows, columns, phase] == label) for label in (2, 3, 1)}
            pair.append({"side": rows.stop - rows.start, "image": data_uri(content.getvalue(), ".png"),
                         "paths": {name: d for name, d in paths.items() if d}})
        pictures.append(pair)
    return pictures


def window(study: Study, masks: UInt8[np.ndarray, "s h w 2"] | None) -> tuple[slice, slice]:
    """Rows and columns of a square round all that is labelled; everything where nothing is."""
    size = study.frames.shape[1]
    if masks is None or not masks.any():
        return slice(0, size), slice(0, size)
    ends = [(int(at[0]), int(at[-1]) + 1) for at in (np.flatnonzero(masks.any(axis=axes))
                                                    for axes in ((0, 2, 3), (0, 1, 3)))]
    side = min(size, max(LEAST_PX, *(high - low + 2 * MARGIN_PX for low, high in ends)))
    starts = [min(max((low + high - side) // 2, 0), size - side) for low, high in ends]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def outline(region: Bool[np.ndarray, "h w"]) -> str:
    """The borders of a region as an SVG path, in pixels whose corner is (0, 0)."""
    lines = cast(list[np.ndarray], contour_generator(z=np.pad(region * 1.0, 1)).lines(0.5))
    return "".join("M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for x, y in line) + "Z" for line in lines)


def curve_picture(prediction: Prediction) -> str:
    """The volume curve as a data URI, "" of a study that was no cine."""
    if prediction.curve is None:
        return ""
    content = io.BytesIO()
    curve_figure(prediction.curve, (prediction.ed_frame, prediction.es_frame)).savefig(content, format="svg")
    return data_uri(content.getvalue(), ".svg")
