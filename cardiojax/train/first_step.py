"""A sign that a training has taken its first step: what dies before will do so again, and is not started again."""

import os
from pathlib import Path

FILE = "CARDIOJAX_FIRST_STEP_FILE"     # of the environment: made then


def taken():
    if file := os.environ.get(FILE):
        Path(file).touch()
