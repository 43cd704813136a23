"""The embedded cohort as a dataset: two variants that differ as the paper's Dataset 1 and 2 do."""

import concurrent.futures
import functools
import multiprocessing
import os
from collections.abc import Iterator

from cardiojax import phantom, preparation
from cardiojax.data import records
from data_builders.study_builder import StudyBuilder, StudyConfig

SPLITS = {"train": (0, 120), "validation": (120, 12), "test": (132, 30)}      # first index, studies


class Builder(StudyBuilder):
    """`phantom/dsb_like` (wide EF) and `phantom/ukb_like` (narrow EF); 120 / 12 / 30 studies each."""

    BUILDER_CONFIGS = [
        StudyConfig(name="dsb_like", description="Wide EF, 9–10 mm slice spacing, mixed pixel spacing."),
        StudyConfig(name="ukb_like", description="Narrow EF, 8–10 mm slice spacing, 1.8–2.1 mm pixels."),
    ]
    needs_source = False

    def _split_generators(self, dl_manager):
        """Made on all cores by one pool: each study depends on its variant and index alone."""
        assert self.builder_config is not None
        make = functools.partial(make_record, self.builder_config.name)
        pool = concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))
        made = {name: [pool.submit(make, i) for i in range(first, first + count)]
                for name, (first, count) in SPLITS.items()}
        pool.shutdown(wait=False)                # it ends with its last study
        return {name: self._examples(records) for name, records in made.items()}

    def _examples(self, made: list[concurrent.futures.Future]) -> Iterator[tuple[str, dict]]:
        for record in (future.result() for future in made):
            yield record["study_id"], {**record, "source": self.name}


def make_record(variant: str, index: int) -> dict:
    return records.encode(preparation.prepare(phantom.study(variant, index)))
