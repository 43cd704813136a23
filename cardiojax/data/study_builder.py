"""What the builders share: the schema, array_record, and studies that fail by name instead of ending a build."""

import hashlib
import inspect
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from cardiojax import preparation
from cardiojax.data import records
from cardiojax.errors import DataError, StudyError
from cardiojax.files import write_rows
from cardiojax.study import Study

log = logging.getLogger("cardiojax")

MIN_TRAINING_SLICES = 5          # paper, Methods: subjects with fewer are excluded from training and validation
EXCLUSIONS = "exclusions.csv"    # beside the records: study_id,reason

Source = tuple[str, Callable[[], Study]]      # study_id, and how to read it


class StudyConfig(tfds.core.BuilderConfig):
    """How studies are prepared: trimmed to base … apex or whole, cropped round the motion or the image centre;
    `consecutive`: whether the slices that training requires must be neighbours without a gap."""

    def __init__(self, *, trimmed: bool = False, centre: str = "motion", consecutive: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.trimmed, self.centre, self.consecutive = trimmed, centre, consecutive


FULL = StudyConfig(name="full", description="Every slice; cropped round the centre of motion.")
TRIMMED = StudyConfig(name="trimmed", trimmed=True,
                      description="Slices between base and apex (where masks say so), as in the paper.")
IMAGE_CENTRE = StudyConfig(name="image_centre", centre="image",
                           description="Every slice; cropped round the image centre, as in the paper.")
PAPER = StudyConfig(name="paper", trimmed=True, centre="image", consecutive=True,
                    description="The paper's: slices between base and apex (where masks say so), cropped round the "
                                "image centre, at least 5 of them consecutive in training and validation.")


class StudyBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Turns (study_id, read) pairs into records.

    exclude: ids of studies to leave out of training and validation (the paper's motion artefacts). The test split
    keeps them, as the paper's does. `failures` names what could not be used, `excluded` what `exclude` left out, each
    with its reason; both are rows of `exclusions.csv` beside the records.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [FULL, TRIMMED, IMAGE_CENTRE, PAPER]
    needs_source = True                  # a folder with the studies as they come from their source

    def __init__(self, *, file_format="array_record", exclude: Iterable[str] = (), **kwargs):
        super().__init__(file_format=file_format, **kwargs)
        self.exclude = tuple(exclude)
        self.excluded: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.beam = False                    # True: studies are read by Apache Beam's workers
        self.listed: dict[str, list[str]] = {}        # by split, the studies there are
        self.first_with: dict[str, str] = {}          # by a digest of the images, the study that had them first

    def _info(self) -> tfds.core.DatasetInfo:
        schema = {"features": records.features(), "disable_shuffling": True}
        if "." in type(self).__module__:                     # README.md and so on of its package
            return self.dataset_info_from_configs(**schema)
        return tfds.core.DatasetInfo(builder=self, description=inspect.getdoc(type(self)), **schema)

    @staticmethod
    def patient_of(study_id: str) -> str:
        """The patient of a study: by default each study is one; a dataset with repeat visits says otherwise."""
        return study_id

    def _download_and_prepare(self, dl_manager, download_config):
        """The exclusions are written before TFDS gives the folder its name: they are there where the records are."""
        super()._download_and_prepare(dl_manager, download_config)
        if self.beam:
            self._note_missing()
        write_rows(Path(self.data_path, EXCLUSIONS), [("study_id", "reason"), *self.left_out().items()])

    def left_out(self) -> dict[str, str]:
        """The reason of every study that was found and is in no record."""
        return {study_id: reason.removeprefix(f"study {study_id}: ")
                for study_id, reason in (self.excluded | self.failures).items()}

    def _splits(self, sources: dict[str, list[Source]]) -> dict[str, Iterable[tuple[str, dict]]]:
        """The examples of each split. A split without any usable study is left out by name: TFDS would give up.

        Raises StudyError where no split has one, DataError where a patient is in two.
        """
        self._check_patients(sources)
        sources = self._without_excluded(sources)
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
            reasons = [*(self.excluded | self.failures).values()]
            raise StudyError(f"no usable study among {len(reasons)}: {reasons[0] if reasons else 'none was found'}")
        return splits

    def _check_patients(self, sources: dict[str, list[Source]]):
        seen: dict[str, str] = {}
        for split, members in sources.items():
            for patient in (self.patient_of(study_id) for study_id, _ in members):
                if seen.setdefault(patient, split) != split:
                    raise DataError(f"patient {patient} of {self.name} is in both {seen[patient]} and {split}")

    def _without_excluded(self, sources: dict[str, list[Source]]) -> dict[str, list[Source]]:
        split_of = {study_id: split for split, members in sources.items() for study_id, _ in members}
        for study_id in self.exclude:
            if study_id not in split_of:
                log.warning("study %s: to be excluded, but %s has no such study", study_id, self.name)
            elif split_of[study_id] == "test":
                log.warning("study %s: to be excluded, but kept, as it is in the test split", study_id)
            else:
                self.excluded[study_id] = f"study {study_id}: excluded by the user's list"
                log.info("%s", self.excluded[study_id])
        return {split: [s for s in members if s[0] not in self.excluded] for split, members in sources.items()}

    def _generate_examples(self, sources: Iterable[Source], training: bool) -> Iterator[tuple[str, dict]]:
        for study_id, read in sources:
            try:
                study = read()
                self._warn_of_a_twin(study)
                yield study_id, record(study, self.name, self.builder_config, training)
            except StudyError as error:
                self.failures[study_id] = str(error)
                log.error("%s", error)

    def _warn_of_a_twin(self, study: Study):
        """One line where a study's images are another patient's, which a test split must not share with training."""
        first = self.first_with.setdefault(hashlib.sha256(study.frames.tobytes()).hexdigest(), study.study_id)
        if self.patient_of(first) != self.patient_of(study.study_id):
            log.warning("study %s: its images are those of %s: one scan under two names?", study.study_id, first)

    def _on_workers(self, sources: list[Source], training: bool):
        """The same as a Beam transform; the studies' places keep their order in the shards."""
        import apache_beam as beam  # pyright: ignore[reportMissingImports]

        return beam.Create(list(enumerate(sources))) | beam.FlatMap(
            usable, name=self.name, config=self.builder_config, training=training)

    def _note_missing(self):
        """After a build by Beam, whose workers keep the reasons in their own logs: what they left out, by name."""
        for name, study_ids in self.listed.items():
            written = {r["study_id"].decode() for r in self.as_data_source(name)}
            self.failures |= {i: "see the workers' logs" for i in study_ids if i not in written}


def usable(numbered: tuple[int, Source], **settings) -> Iterator[tuple[int, dict]]:
    """A study's record under its number, or nothing and its reason in the log."""
    try:
        yield numbered[0], record(numbered[1][1](), **settings)
    except StudyError as error:
        log.error("%s", error)


def record(study: Study, name: str, config: StudyConfig, training: bool) -> dict:
    """One study as read, prepared and encoded. Raises StudyError."""
    study = study.replace(source=name)
    if training:
        require_slices(study.study_id, len(study), "slices")
    if config.trimmed:
        study = preparation.trim(study)
    if training and config.consecutive:
        require_slices(study.study_id, study.consecutive_slices, "consecutive slices")
    return records.encode(preparation.prepare(study, config.centre))


def require_slices(study_id: str, count: int, what: str):
    if count < MIN_TRAINING_SLICES:
        raise StudyError(f"study {study_id}: {count} {what}, left out of training (at least {MIN_TRAINING_SLICES})")


def fixed_fraction(salt: str, study_id: str) -> float:
    """A number in [0, 1) from a hash of the study's id, always the same: it decides the split."""
    digest = hashlib.sha256(f"{salt}:{study_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
