"""The synthetic cohort as a dataset.

Its shards are written by `cardiojax.synthesis.build`, this only opens them: many processes share a build, and a killed
one goes on where it was, neither of which TFDS's own `download_and_prepare` can do.
"""

from cardiojax.data.study_builder import StudyBuilder, StudyConfig
from cardiojax.errors import InputError


class Builder(StudyBuilder):
    """`synthetic/uniform`, `low`, `all`; cohorts of other names open by `cardiojax.data.open_split` too."""

    BUILDER_CONFIGS = [
        StudyConfig(name="uniform", description="EF flat over [10, 80] %."),
        StudyConfig(name="low", description="Two thirds of the studies with an EF below 40 %."),
        StudyConfig(name="all", description="Every candidate with an EF in [10, 80] %."),
    ]
    needs_source = False

    def _split_generators(self, dl_manager):
        raise InputError("a cohort needs a generator: cardiojax build synthetic --gaugan RUN --from NAME:SPLIT")
