"""What the builders share: the schema, array_record, and studies that fail by name instead of ending a build."""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator

import tensorflow_datasets as tfds

from cardiojax import preprocess, records
from cardiojax.errors import StudyError
from cardiojax.study import Study

log = logging.getLogger("cardiojax")

MIN_TRAINING_SLICES = 5          # paper, Methods: subjects with fewer are excluded from training and validation

Source = tuple[str, Callable[[], Study]]      # study_id, and how to read it


class StudyConfig(tfds.core.BuilderConfig):
    """How studies are prepared: trimmed to base … apex or whole, cropped round the motion or the image centre."""

    def __init__(self, *, trimmed: bool = False, centre: str = "motion", **kwargs):
        super().__init__(**kwargs)
        self.trimmed, self.centre = trimmed, centre


FULL = StudyConfig(name="full", description="Every slice; cropped round the centre of motion.")
TRIMMED = StudyConfig(name="trimmed", trimmed=True,
                      description="Slices between base and apex (where masks say so), as in the paper.")
IMAGE_CENTRE = StudyConfig(name="image_centre", centre="image",
                           description="Every slice; cropped round the image centre, as in the paper.")


class StudyBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Turns (study_id, read) pairs into records. `failures` names what could not be read, with its reason."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [FULL, TRIMMED, IMAGE_CENTRE]

    def __init__(self, *, file_format="array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)
        self.failures: dict[str, str] = {}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=records.features(), disable_shuffling=True)

    def _splits(self, sources: dict[str, list[Source]]) -> dict[str, Iterable[tuple[str, dict]]]:
        """The examples of each split. A split without any usable study is left out by name: TFDS would give up.

        Raises StudyError where no split has one.
        """
        splits = {}
        for name, members in sources.items():
            examples = self._generate_examples(members, training=name != "test")
            if (first := next(examples, None)) is None:
                log.warning("split %s: none of its %d studies can be used, left out", name, len(members))
            else:
                splits[name] = itertools.chain([first], examples)
        if not splits:
            reason = next(iter(self.failures.values()), "none was found")
            raise StudyError(f"no usable study among {len(self.failures)}: {reason}")
        return splits

    def _generate_examples(self, sources: Iterable[Source], training: bool) -> Iterator[tuple[str, dict]]:
        for study_id, read in sources:
            try:
                study = read().replace(source=self.name)
                if training and len(study) < MIN_TRAINING_SLICES:
                    raise StudyError(f"study {study_id}: {len(study)} slices, left out of training "
                                     f"(at least {MIN_TRAINING_SLICES})")
                if self.builder_config.trimmed:
                    study = preprocess.trim(study)
                study = preprocess.prepare(study, self.builder_config.centre)
            except StudyError as error:
                self.failures[study_id] = str(error)
                log.error("%s", error)
                continue
            yield study_id, records.encode(study)


def fixed_fraction(salt: str, study_id: str) -> float:
    """A number in [0, 1) that a study keeps for ever: the hash that decides its split."""
    digest = hashlib.sha256(f"{salt}:{study_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
