"""The builders of all installed packages, by the name of their dataset.

A package declares each in the entry-point group `cardiojax.builders`: the dataset's name, and the module whose import
registers its `cardiojax.data.study_builder.StudyBuilder` with TFDS.
"""

import importlib.metadata
import importlib.util
import logging
import pkgutil
from collections.abc import Iterable
from importlib.metadata import EntryPoint

import tensorflow_datasets as tfds

from cardiojax.data.study_builder import StudyBuilder
from cardiojax.errors import one_line

log = logging.getLogger("cardiojax")

GROUP, OURS = "cardiojax.builders", "data_builders"


def entry_points() -> dict[str, EntryPoint]:
    """By dataset. This project's own come from its package, so that they are found whatever its metadata says."""
    found = {}
    ours = importlib.util.find_spec(OURS)
    for package in pkgutil.iter_modules(ours.submodule_search_locations if ours else []):
        if package.ispkg:
            module = f"{OURS}.{package.name}.{package.name}_dataset_builder"
            found[package.name] = EntryPoint(package.name, module, GROUP)
    for point in importlib.metadata.entry_points(group=GROUP):
        taken = found.setdefault(point.name, point)
        if point.value != taken.value:
            log.warning("dataset %s: builder %s left out, the name is taken by %s", point.name, point.value,
                        taken.value)
    return found


def load(point: EntryPoint):
    """The builder's class, registered with TFDS; None, with one line in the log, where it cannot be had."""
    try:
        point.load()
        cls = tfds.builder_cls(point.name)
    except tfds.core.DatasetNotFoundError:
        log.warning("dataset %s: left out, %s registers no builder of that name", point.name, point.value)
    except Exception as error:            # an import may raise anything, and must not break the other builders
        log.warning("dataset %s: left out, its builder %s cannot be imported (%s: %s)", point.name, point.value,
                    type(error).__name__, one_line(error))
    else:
        if issubclass(cls, StudyBuilder):
            return cls
        log.warning("dataset %s: left out, its builder %s is no StudyBuilder", point.name, point.value)
    return None


def builder_class(name: str):
    """The builder of one dataset, or None where there is none that can be imported."""
    point = entry_points().get(name)
    return None if point is None else load(point)


def builder_classes() -> dict[str, type]:
    """All builders that can be imported, by dataset."""
    return {name: cls for name, point in sorted(entry_points().items()) if (cls := load(point)) is not None}


def patients(studies: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The patient, as `source/patient`, behind each (source, study_id) of real studies.

    The source's builder says which studies are one patient's (`StudyBuilder.patient_of`); where it is not installed,
    every study is a patient.
    """
    studies = set(studies)
    classes = {source: builder_class(source) for source in {s for s, _ in studies}}
    return {(source, study_id): f"{source}/{cls.patient_of(study_id) if (cls := classes[source]) else study_id}"
            for source, study_id in studies}
