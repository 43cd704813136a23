"""Random exams of random trees are read rightly, or refused for a reason (`tests/exams.py`)."""

import logging

import pytest

from tests import exams

TREES, PART = 250, 50              # of some two exams each


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, TREES, PART))
def test_random_trees(first):
    logging.getLogger("cardiojax").setLevel(logging.CRITICAL)
    try:
        assert not [wrong for seed in range(first, first + PART) if (wrong := exams.checked(seed))]
    finally:
        logging.getLogger("cardiojax").setLevel(logging.INFO)
