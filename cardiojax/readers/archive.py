"""Zip and tar archives of studies, unpacked for as long as they are looked at."""

import contextlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from cardiojax.errors import StudyError, one_line
from cardiojax.readers.ukbb import NAME as UKBB_NAME

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 1_000_000
SPARE_BYTES = 2**30        # of the disk that archives are unpacked on


def is_archive(path: Path) -> bool:
    """By its ending; UK Biobank's zips have a reader of their own."""
    return path.name.lower().endswith(ENDINGS) and path.is_file() and not UKBB_NAME.search(path.name)


def name_of(archive: Path) -> str:
    """Without its ending."""
    ending = max((e for e in ENDINGS if archive.name.lower().endswith(e)), key=len)
    return archive.name[:-len(ending)]


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A folder of the archive's name with its files. Links, devices and whatever would leave the folder are not
    unpacked. Raises StudyError with one line where it is broken or does not fit on the disk."""
    name = name_of(archive)
    with tempfile.TemporaryDirectory(prefix="cardiojax-") as room:
        folder = Path(room) / name
        folder.mkdir()
        try:
            if archive.name.lower().endswith(".zip"):
                with zipfile.ZipFile(archive) as source:
                    check_size(archive, [m.file_size for m in source.infolist()], room)
                    source.extractall(folder)         # noqa: S202  zipfile keeps all of it inside
            else:
                with tarfile.open(archive) as source:
                    members = [m for m in source.getmembers() if m.isfile()]
                    check_size(archive, [m.size for m in members], room)
                    source.extractall(folder, members, filter="data")
        except StudyError:
            raise
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError,
                ValueError) as error:
            raise StudyError(f"study {name}: {archive.name} is unreadable ({one_line(error)})") from None
        yield folder


def check_size(archive: Path, sizes: list[int], room: str):
    """Before anything is written, by what the archive declares."""
    free = shutil.disk_usage(room).free - SPARE_BYTES
    if len(sizes) > MAX_MEMBERS or sum(sizes) > free:
        raise StudyError(f"study {name_of(archive)}: {archive.name} holds {len(sizes)} files of "
                         f"{sum(sizes) / 2**30:.1f} GiB, too much to unpack here ({free / 2**30:.1f} GiB are free)")
