"""What the builders share: the schema, array_record, and studies that fail by name instead of ending a build."""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator

import tensorflow_datasets as tfds

from cardiojax import preparation
from cardiojax.data import records
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
        self.beam = False                    # True: studies are read by Apache Beam's workers
        self.listed: dict[str, list[str]] = {}        # by split, the studies there are

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=records.features(), disable_shuffling=True)

    def _splits(self, sources: dict[str, list[Source]]) -> dict[str, Iterable[tuple[str, dict]]]:
        """The examples of each split. A split without any usable study is left out by name: TFDS would give up.

        Raises StudyError where no split has one.
        """
        self.listed = {name: [study_id for study_id, _ in members] for name, members in sources.items()}
        if self.beam:
            return {name: self._on_workers(members, training=name != "test") for name, members in sources.items()}
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
        for source in sources:
            try:
                yield source[0], record(source, self.name, self.builder_config, training)
            except StudyError as error:
                self.failures[source[0]] = str(error)
                log.error("%s", error)

    def _on_workers(self, sources: list[Source], training: bool):
        """The same as a Beam transform; the studies' places keep their order in the shards."""
        import apache_beam as beam

        return beam.Create(list(enumerate(sources))) | beam.FlatMap(
            usable, name=self.name, config=self.builder_config, training=training)

    def note_missing(self):
        """After a build by Beam, whose workers keep the reasons in their own logs: what they left out, by name."""
        for name, study_ids in self.listed.items():
            written = {r["study_id"].decode() for r in self.as_data_source(name)}
            self.failures |= {i: "see the workers' logs" for i in study_ids if i not in written}


def usable(numbered: tuple[int, Source], **settings) -> Iterator[tuple[int, dict]]:
    """A study's record under its number, or nothing and its reason in the log."""
    try:
        yield numbered[0], record(numbered[1], **settings)
    except StudyError as error:
        log.error("%s", error)


def record(source: Source, name: str, config: StudyConfig, training: bool) -> dict:
    """One study read, prepared and encoded. Raises StudyError."""
    study_id, read = source
    study = read().replace(source=name)
    if training and len(study) < MIN_TRAINING_SLICES:
        raise StudyError(f"study {study_id}: {len(study)} slices, left out of training "
                         f"(at least {MIN_TRAINING_SLICES})")
    if config.trimmed:
        study = preparation.trim(study)
    return records.encode(preparation.prepare(study, config.centre))


def fixed_fraction(salt: str, study_id: str) -> float:
    """A number in [0, 1) that a study keeps for ever: the hash that decides its split."""
    digest = hashlib.sha256(f"{salt}:{study_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
