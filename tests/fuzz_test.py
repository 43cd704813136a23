"""Whatever stands in a file, a reader gives a `Study` or says in one line why not; a table likewise."""

import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cardiojax.cli.predict import phases_of, rows_of
from cardiojax.errors import InputError, RunError, StudyError
from cardiojax.files import read_arrays, write_arrays
from cardiojax.models.one_file import read_one_file, write_one_file
from cardiojax.phantom.dicom import write_study
from cardiojax.readers import read_study
from cardiojax.study import Study

BOUNDED = settings(max_examples=150, deadline=None, derandomize=True,
                   suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@st.composite
def damage(draw) -> list[tuple[float, bytes]]:
    """Places (shares of the file) and what is written there; a last place alone cuts the file off."""
    places = draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=4))
    return places + ([(draw(st.floats(0, 1)), b"")] if draw(st.booleans()) else [])


def damaged(content: bytes, places: list[tuple[float, bytes]], header: int) -> bytes:
    """Mostly in the first `header` bytes, where it hurts."""
    out = bytearray(content)
    for share, new in places:
        if not new:
            return bytes(out[:int(share * len(out))])
        at = int(share * min(header, len(out)))
        out[at:at + len(new)] = new
    return bytes(out)


def one_line_or(kind: type, read, path: Path):
    """`read` gives a `kind`, or raises an InputError (StudyError is one) of one line; nothing else may come out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                # pydicom and numpy tell of what the damage made
        try:
            found = read(path)
        except (InputError, StudyError) as error:
            found = str(error)
    assert isinstance(found, kind) or (isinstance(found, str) and "\n" not in found)


@BOUNDED
@given(places=damage())
@example(places=[(70.5 / 352, b"\0\0")])            # no data type
@example(places=[(42.5 / 352, b"\xff\xff")])        # −1 columns
def test_damaged_nifti(places, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nifti")
    cine = nib.Nifti1Image(np.arange(6 * 5 * 3 * 4, dtype=np.int16).reshape(6, 5, 3, 4), np.diag([1.5, 1.5, 8, 1]))
    (folder / "sa.nii").write_bytes(damaged(cine.to_bytes(), places, 352))
    one_line_or(Study, read_study, folder / "sa.nii")


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom")
    write_study(folder, "ukb_like", 0, "s", phases=2, other_views=False)
    return {f.relative_to(folder): f.read_bytes() for f in sorted(folder.rglob("*.dcm"))[:6]}


@BOUNDED
@given(places=damage(), which=st.integers(0, 6))
@example(places=[(138.5 / 1200, b"\x01")], which=0)  # a number of one byte in the file's own header
def test_damaged_dicom(places, which, dicom, tmp_path_factory):
    """One file of six, or (6) all of them in the same way."""
    folder = tmp_path_factory.mktemp("dicom")
    for i, (name, content) in enumerate(dicom.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(damaged(content, places, 1200) if which in (i, 6) else content)
    one_line_or(Study, read_study, folder / "s")


@BOUNDED
@given(places=damage())
def test_damaged_ukb_zip(places, dicom, tmp_path_factory):
    file = tmp_path_factory.mktemp("zip") / "1000001_20209_2_0.zip"
    with zipfile.ZipFile(file, "w") as archive:
        lines = [f"{i}.dcm,CINE_segmented_SAX_b{i // 2 + 1}" for i in range(len(dicom))]
        archive.writestr("manifest.csv", "filename,series\n" + "\n".join(lines))
        for i, content in enumerate(dicom.values()):
            archive.writestr(f"{i}.dcm", content)
    content = file.read_bytes()
    file.write_bytes(damaged(content, places, len(content)))
    one_line_or(Study, read_study, file)


@BOUNDED
@given(text=st.text(max_size=60), as_info=st.booleans())
@example(text="0", as_info=False)
def test_any_info_cfg(text, as_info, tmp_path_factory):
    folder = tmp_path_factory.mktemp("acdc") / "patient001"
    folder.mkdir()
    (folder / "Info.cfg").write_bytes((f"ED: {text}\nES: 2\n" if as_info else text).encode("utf8", "surrogatepass"))
    one_line_or(Study, read_study, folder)


@BOUNDED
@given(content=st.binary(max_size=80) | st.text(max_size=80).map(lambda t: ("study_id,ed,es\n" + t).encode(
    "utf8", "surrogatepass")))
@example(content=b"\x80")
def test_any_table(content, tmp_path_factory):
    file = tmp_path_factory.mktemp("csv") / "table.csv"
    file.write_bytes(content)
    for read in (phases_of, lambda f: rows_of(f, ("study_id", "ed", "es"))):
        one_line_or(dict, read, file)


@pytest.mark.parametrize("kind", ["model.npz", "model.safetensors"])
def test_a_wrong_byte_of_a_model_is_found(kind, tmp_path):
    """Each of its bytes: the file is refused, or what is read is what was written."""
    file, rng = tmp_path / kind, np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(2, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)}
    write, read = ((write_arrays, read_arrays) if kind.endswith(".npz") else
                   (lambda f, a: write_one_file(f, {"task": "sfera"}, a), lambda f: read_one_file(f)[1]))
    write(file, arrays)
    whole = file.read_bytes()
    for at in range(len(whole)):
        for changed in (1, 32, 128, 255):
            content = bytearray(whole)
            content[at] ^= changed
            file.write_bytes(content)
            try:
                found = read(file)
            except RunError:
                continue
            assert found.keys() == arrays.keys(), (at, changed)
            assert all((found[name] == arrays[name]).all() for name in arrays), (at, changed)


def test_a_wrong_byte_of_a_shard_is_found(tmp_path):
    """Shards have the checksums of ArrayRecord: of the bytes that hold something, every seventh."""
    rng = np.random.default_rng(0)
    records = [rng.integers(0, 40, 300, dtype=np.uint8).tobytes() for _ in range(3)]
    writer = ArrayRecordWriter(str(tmp_path / "whole"), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    whole, errors = (tmp_path / "whole").read_bytes(), 0
    for at in np.flatnonzero(np.frombuffer(whole, np.uint8))[::7]:
        content = bytearray(whole)
        content[at] ^= 65
        (tmp_path / "damaged").write_bytes(content)
        try:
            reader = ArrayRecordReader(str(tmp_path / "damaged"))
            found = reader.read_all()
            reader.close()
        except (RuntimeError, ValueError, IndexError):
            errors += 1
            continue
        assert found == records, at
    assert errors > 50
