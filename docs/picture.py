"""The README's picture: a phantom's cine, read from DICOM and measured by the model that ships.

    python docs/picture.py docs/output.png
"""

import shutil
import sys
import tempfile
from pathlib import Path

from cardiojax.evaluate.figures import contact_sheet
from cardiojax.models import load_measuring
from cardiojax.models.shipped import DEFAULT
from cardiojax.phantom.dicom import write_exam


def main(file: str):
    with tempfile.TemporaryDirectory() as room:
        write_exam(Path(room) / "phantom", index=1)
        contact_sheet(load_measuring(DEFAULT).predict(Path(room) / "phantom"), Path(room))
        shutil.copy(Path(room) / "phantom.png", file)


if __name__ == "__main__":
    main(sys.argv[1])
