"""The embedded cohort as a dataset: two variants that differ as the paper's Dataset 1 and 2 do."""

import concurrent.futures
import functools
import multiprocessing
from collections.abc import Iterator

from cardiojax import phantom
from cardiojax.data import records
from cardiojax.data.study_builder import StudyBuilder, StudyConfig
from cardiojax.machine import usable_cores
from cardiojax.study import Study

SPLITS = {"train": (0, 120), "validation": (120, 12), "test": (132, 30)}      # first index, studies


class Builder(StudyBuilder):
    """`phantom/dsb_like` (wide EF) and `phantom/ukb_like` (narrow EF); 120 / 12 / 30 studies each."""

    BUILDER_CONFIGS = [
        StudyConfig(name="dsb_like", description="Wide EF, 9–10 mm slice spacing, mixed pixel spacing."),
        StudyConfig(name="ukb_like", description="Narrow EF, 8–10 mm slice spacing, 1.8–2.1 mm pixels."),
    ]
    needs_source = False

    def _split_generators(self, dl_manager):
        """Made on all cores by one pool: each study depends on its variant and index alone. Its processes import the
        phantom alone, not what records take."""
        assert self.builder_config is not None
        make = functools.partial(phantom.prepared_study, self.builder_config.name)
        pool = concurrent.futures.ProcessPoolExecutor(usable_cores(), mp_context=multiprocessing.get_context("spawn"))
        made = {name: [pool.submit(make, i) for i in range(first, first + count)]
                for name, (first, count) in SPLITS.items()}
        pool.shutdown(wait=False)                # it ends with its last study
        return {name: self._examples(studies) for name, studies in made.items()}

    def _examples(self, made: list[concurrent.futures.Future[Study]]) -> Iterator[tuple[str, dict]]:
        for study in (future.result() for future in made):
            yield study.study_id, {**records.encode(study), "source": self.name}
