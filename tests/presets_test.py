"""The presets: docs/presets.md says what config.py says, and `paper` is the paper's."""

import dataclasses
import re
from pathlib import Path

import pytest

from cardiojax.config import CONTOURS_PRESETS, GAUGAN_PRESETS, SFERA_PRESETS
from cardiojax.experiment.config import EXPERIMENT_PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "presets.md"
PRESETS = {"SFERA": SFERA_PRESETS, "GauGAN": GAUGAN_PRESETS, "Contours": CONTOURS_PRESETS,
           "Experiment": EXPERIMENT_PRESETS}


def settings(config, prefix="") -> dict[str, str]:
    """Every setting by its dotted name, as the page writes it."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= settings(value, f"{prefix}{field.name}.")
        elif isinstance(value, bool):
            found[prefix + field.name] = "yes" if value else "no"
        else:
            found[prefix + field.name] = f"{value:g}" if isinstance(value, float) else (
                f"{value:,}" if isinstance(value, int) else str(value))
    return found


def differences(title: str) -> dict[str, list[str]]:
    """The settings in which two presets differ; of an experiment's trainings, where they are not the presets' own."""
    columns = [settings(config) for config in PRESETS[title].values()]
    rows = {name: [column[name] for column in columns] for name in columns[0]}
    if title == "Experiment":
        own = {f"{task}.{name}": [settings(c)[name] for c in presets.values()] for task, presets in
               (("sfera", SFERA_PRESETS), ("gaugan", GAUGAN_PRESETS)) for name in settings(presets["paper"])}
        rows = {name: values for name, values in rows.items() if own.get(name) != values}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


@pytest.mark.parametrize("title", PRESETS)
def test_the_page_lists_every_difference(title):
    section = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    head, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")]
                      for line in section.splitlines() if line.startswith("|")]
    assert head[1:-1] == list(PRESETS[title])
    assert {name: values for name, *values, _ in rows} == differences(title)
    assert all(why for *_, why in rows)


def test_paper_is_the_papers():
    """Methods: the BiLSTM's states, volumes alone, 32 to 512 channels, 128 features, 150 pixels; nothing of ours
    but a mild augmentation."""
    sfera, gaugan = SFERA_PRESETS["paper"], GAUGAN_PRESETS["paper"]
    assert (sfera.net.readout, sfera.net.size_px, sfera.net.blocks, sfera.net.width * 2**4) == ("final", 150, 5, 512)
    assert sfera.net.spatial_features == 128
    assert sfera.views == 1
    assert not any((sfera.area_weight, sfera.net.dropout, sfera.ema, sfera.weight_decay, sfera.clip_norm,
                    sfera.augment.flip, sfera.augment.reverse))
    assert not any((gaugan.ema, gaugan.net.style, *dataclasses.astuple(gaugan.augment)))
    assert EXPERIMENT_PRESETS["paper"].synthetic == 22_653
