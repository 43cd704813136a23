"""UK Biobank's field 20209, `{eid}_20209_{visit}_0.zip`: DICOM of the short-axis cine and a manifest → `Study`."""

import contextlib
import logging
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cardiojax.errors import StudyError, one_line
from cardiojax.readers.dicom import read_dicom_cine, read_dicom_study
from cardiojax.study import Cine, Study

log = logging.getLogger("cardiojax")

NAME = re.compile(r"(?P<eid>[^/\\]+?)_20209_(?P<visit>\d+)_0\.zip$", re.IGNORECASE)
SHORT_AXIS = re.compile(r"CINE_segmented_SAX(_b\d+)?(?!\w)", re.IGNORECASE)
MANIFESTS = ("manifest.csv", "manifest.cvs")                  # both spellings are published
MAX_BYTES, MAX_MEMBERS = 4 * 2**30, 50_000                    # declared, unpacked: a study has some 200 MB


def study_id_of(file: Path) -> str:
    """The participant's number, and `_3_0` and so on for visits after the imaging visit (2)."""
    match = NAME.search(file.name)
    if match is None:
        return file.stem
    return match["eid"] if match["visit"] == "2" else f"{match['eid']}_{match['visit']}_0"


def participant_of(study_id: str) -> str:
    """Visits of one participant share a split."""
    return re.sub(r"_\d+_0$", "", study_id)


def read_ukbb_zip(file: Path, frames: tuple[int, int] | None = None) -> Study:
    """Read the short-axis cine of one participant; series as the manifest names them, inline VF results left out.

    Only members that the manifest lists are unpacked, under names of our own, so that none leaves its folder. Raises
    StudyError for an archive that is broken, declares too much, or holds no short-axis series.
    """
    with unpacked(file) as folder:
        return read_dicom_study(folder, frames, study_id=folder.name)


def read_ukbb_cine(file: Path) -> Cine:
    """The same with every phase."""
    with unpacked(file) as folder:
        return read_dicom_cine(folder, study_id=folder.name)


@contextlib.contextmanager
def unpacked(file: Path) -> Iterator[Path]:
    """The short-axis series of an archive as a folder of DICOM, `sax_1` …, for as long as it is looked at."""
    study_id = study_id_of(file)
    try:
        with zipfile.ZipFile(file) as archive:
            members = {PurePosixPath(m.filename).name: m for m in archive.infolist() if not m.is_dir()}
            declared = sum(m.file_size for m in members.values())
            if len(members) > MAX_MEMBERS or declared > MAX_BYTES:
                raise StudyError(f"study {study_id}: {file.name} declares {len(members)} files of "
                                 f"{declared / 2**30:.0f} GiB, too much for a study")
            series = short_axis(archive, members, study_id)
            with tempfile.TemporaryDirectory(prefix="cardiojax-") as folder:
                for number, (name, files) in enumerate(sorted(series.items(), key=in_order), start=1):
                    below = Path(folder) / study_id / f"sax_{number}"
                    below.mkdir(parents=True)
                    for i, member in enumerate(files):
                        (below / f"{i:05d}.dcm").write_bytes(archive.read(member))
                    log.debug("study %s: series %s, %d files", study_id, name, len(files))
                yield Path(folder) / study_id
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise StudyError(f"study {study_id}: {file.name} is unreadable ({one_line(error)})") from None


def in_order(series: tuple[str, list]) -> tuple[int, str]:
    """b2 before b10."""
    number = re.search(r"_b(\d+)$", series[0])
    return int(number[1]) if number else 0, series[0]


def short_axis(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], study_id: str
               ) -> dict[str, list[zipfile.ZipInfo]]:
    """Members of the archive by short-axis series. A date in the manifest may hold an unquoted comma, so a line's
    first cell is the file, and the series is what looks like its name. Raises StudyError where there are none.
    """
    manifest = next((members[m] for m in MANIFESTS if m in members), None)
    if manifest is None:
        raise StudyError(f"study {study_id}: no manifest.csv in the archive")
    found: dict[str, list[zipfile.ZipInfo]] = {}
    missing = 0
    for line in archive.read(manifest).decode("utf8", errors="replace").splitlines()[1:]:
        name, match = PurePosixPath(line.split(",")[0].strip().strip('"')).name, SHORT_AXIS.search(line)
        if match is None or "inlinevf" in line.lower():
            continue
        if name in members:
            found.setdefault(match[0], []).append(members[name])
        else:
            missing += 1
    if missing:
        log.warning("study %s: %d files of the manifest are not in the archive", study_id, missing)
    if not found:
        raise StudyError(f"study {study_id}: no short-axis cine series in the archive's manifest")
    return found
