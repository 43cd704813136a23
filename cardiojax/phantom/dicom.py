"""Phantom studies as DICOM in the challenge's layout, oblique, with its known faults on request."""

import csv
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cardiojax import phantom

# A short-axis orientation as on a scanner: the normal points to the apex (left, front, feet).
ALONG_ROW = np.array([0.61, 0.52, -0.598])
ALONG_ROW = ALONG_ROW / np.linalg.norm(ALONG_ROW)
APEX = np.array([0.62, -0.56, -0.55])
APEX = APEX - (APEX @ ALONG_ROW) * ALONG_ROW
APEX = APEX / np.linalg.norm(APEX)
ALONG_COL = np.cross(APEX, ALONG_ROW)

FAULTS = {
    "duplicate": "the third slice acquired twice, as a later series",
    "all_twice": "the whole stack acquired twice",
    "non_parallel": "one series tilted by 30°",
    "mixed_size": "one slice on a smaller matrix",
    "mixed_spacing": "one slice at 1.5 times the pixel spacing",
    "rotated": "one slice with rows and columns exchanged, and its orientation with them",
    "first_rotated": "the same of the first slice",
    "one_series": "all slices in one series, told apart by the third number of the name",
    "trials": "one slice recorded twice within its series, frames numbered on",
    "missing_frames": "one slice without its second half of the cycle",
    "slice_location": "SliceLocation that has nothing to do with the position",
    "truncated": "one file cut off in the middle",
    "text_file": "a text file named .dcm",
    "nan": "one slice as float pixels with a NaN among them",
}


def write_study(root: Path, variant: str, index: int, study_id: str, phases: int = 12,
                faults: Iterable[str] = (), other_views: bool = True) -> tuple[int, int, np.ndarray]:
    """Write `root/study_id/study/sax_*` (and 2ch, 4ch). Returns 1-based ED and ES phases and the true (EDV, ESV).

    The same pixels and volumes as `phantom.study(variant, index)` at ED and ES, up to rounding to integers.
    Raises ValueError for an unknown fault.
    """
    unknown = set(faults) - set(FAULTS)
    if unknown:
        raise ValueError(f"unknown faults {sorted(unknown)}; there are {', '.join(FAULTS)}")
    times = np.arange(phases) / phases
    es = int(np.abs(times - phantom.ES_TIME).argmin())
    levels = phantom.contraction(times)
    levels[es] = 1.0
    frames, masks, heart = phantom.cine(variant, index, levels)
    writer = Writer(Path(root) / study_id / "study", study_id, heart.pixel, heart.thickness, phases)
    faults = set(faults)
    rounds = 2 if "all_twice" in faults else 1
    for _ in range(rounds):
        for s, depth in enumerate(phantom.slice_depths_mm(heart)):
            fault = faults if s == 3 else faults & {"slice_location", "one_series"}
            if s == 0 and "first_rotated" in faults:
                fault = fault | {"rotated"}
            writer.slice(frames[s], depth, fault, part=s + 1)
            if s == 2 and "duplicate" in faults:
                writer.slice(frames[s], depth, set())
    if "non_parallel" in faults:
        writer.slice(frames[1], 10.0, {"tilt"})
    if "text_file" in faults:
        (writer.folders[0] / "IM-0000-0001.dcm").write_text("not an image\n")
    if other_views:
        writer.view("2ch", frames[len(frames) // 2])
        writer.view("4ch", frames[len(frames) // 2, ::-1])
    area = np.stack([np.count_nonzero(masks[..., k] == 1, axis=(1, 2)) for k in (0, es)], axis=-1)
    volumes = (area * heart.pixel**2).sum(axis=0) * heart.slice_spacing / 1000
    return 1, es + 1, volumes


def write_exam(folder: Path, variant: str = "dsb_like", index: int = 0, phases: int = 20) -> int:
    """A whole exam as a scanner exports it: numbered series without a name that helps, files without a suffix, the
    short-axis cine among two long axes and a scout, one file of the cine cut off. Returns the number of files."""
    with tempfile.TemporaryDirectory(prefix="cardiojax-") as room:
        write_study(Path(room), variant, index, folder.name, phases, {"truncated"})
        study = Path(room) / folder.name / "study"
        series = sorted(study.iterdir(), key=lambda f: int(f.name.split("_")[1]))
        scout(pydicom.dcmread(next(series[-1].iterdir())), study / "scout_1")
        count = 0
        for number, source in enumerate([study / "scout_1", *series], start=1):
            below = folder / f"{number:03d}"
            below.mkdir(parents=True)
            for k, file in enumerate(sorted(source.iterdir()), start=1):
                shutil.copy(file, below / f"IM{k:04d}")
                count += 1
    return count


def scout(like: pydicom.Dataset, folder: Path):
    """Three planes across each other, one image each, of the exam that `like` is of."""
    folder.mkdir()
    like.SeriesInstanceUID, like.SeriesNumber, like.SeriesDescription = generate_uid(), 1, "localizer"
    for k, axes in enumerate(((1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)), start=1):
        like.ImageOrientationPatient, like.InstanceNumber = list(axes), k
        like.SOPInstanceUID = like.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        like.save_as(folder / f"{k}.dcm", enforce_file_format=True)


def write_challenge(root: Path, variant: str, indices: Iterable[int], phases: int = 12,
                    faults: Iterable[str] = ()) -> None:
    """`root/train/1/study/…` and train.csv, as the challenge has them; studies are numbered from 1."""
    rows = []
    for number, index in enumerate(indices, start=1):
        _, _, (edv, esv) = write_study(Path(root) / "train", variant, index, str(number), phases, faults)
        rows.append([number, f"{esv:.1f}", f"{edv:.1f}"])
    with (Path(root) / "train.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["Id", "Systole", "Diastole"], *rows])


class Writer:
    """Writes series after series below one study folder."""

    def __init__(self, folder: Path, patient: str, pixel: float, thickness: float, phases: int):
        self.folder, self.patient, self.pixel = folder, patient, pixel
        self.thickness, self.phases, self.series = thickness, phases, 4
        self.study_uid, self.folders = generate_uid(), []

    def slice(self, cine: np.ndarray, depth: float, faults: set[str], part: int = 0):
        """One slice position: (H, W, T) at `depth` mm along the normal."""
        if "one_series" not in faults or not self.folders:
            self.series += 1
        folder = self.folder / f"sax_{self.series}"
        folder.mkdir(parents=True, exist_ok=True)
        self.folders.append(folder)
        pixel, along_row, along_col = self.pixel, ALONG_ROW, ALONG_COL
        if "mixed_size" in faults:
            cine = cine[8:-8, 4:-4]
        if "mixed_spacing" in faults:
            cine, pixel = coarser(cine), pixel * 1.5
        if "rotated" in faults:
            cine, along_row, along_col = cine.transpose(1, 0, 2), ALONG_COL, ALONG_ROW
        if "tilt" in faults:
            angle = np.deg2rad(30)
            along_col = np.cos(angle) * ALONG_COL + np.sin(angle) * APEX
        centre = 40.0 * ALONG_COL + depth * APEX
        h, w = cine.shape[:2]
        origin = centre - (h - 1) / 2 * pixel * along_col - (w - 1) / 2 * pixel * along_row
        frames = np.concatenate([cine, cine], axis=2) if "trials" in faults else cine
        for t in range(frames.shape[2]):
            if "missing_frames" in faults and t > 1:
                break
            number = f"{self.series:05d}-{t + 1:04d}" + (f"-{part:04d}" if "one_series" in faults else "")
            header = {"InstanceNumber": t + 1, "TriggerTime": float(t % self.phases) * 900 / self.phases,
                      "SliceLocation": float(-7.0 * part if "slice_location" in faults else depth)}
            file = folder / f"IM-{number}.dcm"
            self.file(file, frames[:, :, t], origin, along_row, along_col, pixel, header, nan="nan" in faults)
            if "truncated" in faults and t == 0:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def view(self, name: str, cine: np.ndarray):
        """A long-axis series, which a short-axis reader must leave alone."""
        self.series += 1
        folder = self.folder / f"{name}_{self.series}"
        folder.mkdir(parents=True, exist_ok=True)
        for t in range(cine.shape[2]):
            self.file(folder / f"IM-{self.series:05d}-{t + 1:04d}.dcm", cine[:, :, t], np.zeros(3), APEX, ALONG_COL,
                      self.pixel, {"InstanceNumber": t + 1, "TriggerTime": t * 900.0 / self.phases})

    def file(self, path: Path, image: np.ndarray, origin, along_row, along_col, pixel: float, header: dict,
             nan: bool = False):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        d.StudyInstanceUID = self.study_uid
        d.SeriesInstanceUID = generate_uid(entropy_srcs=[self.study_uid, str(self.series)])
        d.Modality, d.PatientID, d.PatientName = "MR", self.patient, f"phantom^{self.patient}"
        d.SeriesNumber, d.CardiacNumberOfImages = self.series, self.phases
        d.ImagePositionPatient = [f"{v:.5f}" for v in origin]
        d.ImageOrientationPatient = [f"{v:.8f}" for v in (*along_row, *along_col)]
        d.PixelSpacing, d.SliceThickness = [f"{pixel:.5f}"] * 2, f"{self.thickness:g}"
        d.Rows, d.Columns = image.shape
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        for name, value in header.items():
            setattr(d, name, value)
        if nan:
            values = image.astype(np.float32)
            values[3, 3] = np.nan
            d.BitsAllocated, d.FloatPixelData = 32, values.tobytes()
        else:
            d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
            d.PixelData = np.clip(image, 0, 4095).astype("<u2").tobytes()
        pydicom.dcmwrite(path, d, enforce_file_format=True)


def coarser(cine: np.ndarray) -> np.ndarray:
    """The same field of view at 1.5 times the pixel spacing (nearest)."""
    at = [np.minimum(np.round(np.arange(int(n / 1.5)) * 1.5 + 0.25).astype(int), n - 1) for n in cine.shape[:2]]
    return cine[np.ix_(*at)]
