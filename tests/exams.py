"""Random exams as scanners, archives and anonymisers leave them, with what must be read of each.

    python -m tests.exams 10000             # or 8000 2000: so many, of the 2000th on
"""

import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from cardiojax.errors import StudyError
from cardiojax.readers import find_studies, read_cine, read_study
from cardiojax.readers.phases import REFILLED
from cardiojax.study import Cine

MR = "1.2.840.10008.5.1.4.1.1.4"
SIZE_PX, SPACING_MM = 12, 8.5


@dataclasses.dataclass(frozen=True)
class Exam:
    """What is known of a random exam: the phases (1-based) that it holds, ED and ES among them."""

    slices: int
    cycle: int
    phases: tuple[int, ...]
    ed: int
    es: int
    ordered: bool            # whether anything in it says the order in time
    lost: tuple[int, int] | None = None      # slice, from 0, and phase of a file that is not there

    def corners(self) -> np.ndarray:
        """What the corners of a whole cine say: in place of a lost file the mean of its neighbours, or no such slice in
        a cycle of few phases."""
        corners = np.tile(10.0 * np.array(self.phases) + 1, (self.slices, 1))
        if self.lost is None:
            return corners
        s, k = self.lost[0], self.phases.index(self.lost[1])
        if len(self.phases) < REFILLED:
            return np.delete(corners, s, axis=0)
        corners[s, k] = (corners[s, k - 1] + corners[s, (k + 1) % len(self.phases)]) / 2
        return corners


def axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a short axis: along the rows, along the columns, and towards the apex."""
    normal = np.array([1.0, -1.0, -1.0]) / np.sqrt(3)
    row = np.cross([0.0, 0.0, 1.0], normal)
    row /= np.linalg.norm(row)
    return row, np.cross(normal, row), normal


def image_of(s: int, phase: int, es: int, cycle: int) -> np.ndarray:
    """The corner says which image it is; the middle is darkest at ES."""
    pixels = np.full((SIZE_PX, SIZE_PX), 1501, np.uint16)       # odd: halves are exact where rescaled by 2 and −3
    turn = 0.5 * (phase - 1) / (es - 1) if phase <= es else 0.5 + 0.5 * (phase - es) / (cycle + 1 - es)
    pixels[3:-3, 3:-3] -= 2 * np.uint16(250 * (1 - np.cos(2 * np.pi * turn)))
    pixels[0, 0], pixels[0, 1] = 10 * s + 1, 10 * phase + 1
    return pixels


def write(folder: Path, rng: np.random.Generator, patient: str = "X1", uid: str = "") -> Exam:
    """One exam in a folder of its own."""
    def chance(p):
        return rng.random() < p

    slices, cycle = int(rng.integers(3, 6)), int(rng.integers(6, 9))
    es = int(rng.integers(3, 1 + round(0.6 * cycle)))
    two = chance(0.25)
    ed = int(rng.choice([1, cycle])) if two else 1
    phases = tuple(sorted({ed, es})) if two else tuple(range(1, cycle + 1))
    numbers = rng.choice(["restart", "running", "slices_first", "none"])
    trigger, temporal, clock = chance(0.7), chance(0.3), chance(0.3)
    count = rng.choice(["right", "none"] if two else ["right", "none", "wrong"])
    if two and ed != 1:
        trigger = True                                  # nothing but the times can say that the later one is ED
    nominal = (two and ed != 1) or chance(0.3)
    lost = not two and trigger and slices > 3 and chance(0.3)
    one_empty = trigger and numbers != "none" and not two and not lost and chance(0.2)
    jitter, bare, suffix = chance(0.4), chance(0.2), chance(0.7)
    per_slice = chance(0.3)
    row, column, normal = axes()
    uid, files = uid or generate_uid(), []
    start = np.array([-30.0, 40.0, 20.0]) + rng.uniform(-1, 1, 3)
    for s in range(slices):
        for k, phase in enumerate(phases):
            d = pydicom.Dataset()
            d.SOPClassUID, d.SOPInstanceUID = MR, generate_uid()
            d.StudyInstanceUID, d.PatientID, d.Modality = uid, patient, "MR"
            d.SeriesInstanceUID, d.SeriesNumber = f"{uid}.{s if per_slice else 1}", 10 + (s if per_slice else 0)
            d.SeriesDescription = "cine_sa"
            number = {"restart": phase, "running": s * cycle + phase, "slices_first": (phase - 1) * slices + s + 1,
                      "none": None}[numbers]
            if number is not None:
                d.InstanceNumber = number
            if trigger:
                d.TriggerTime = "" if one_empty and (s, k) == (1, 2) else f"{(phase - 1) * 900 / cycle:.1f}"
            if nominal:
                d.NominalInterval = "900"
            if temporal:
                d.TemporalPositionIdentifier = phase
            if clock:
                d.AcquisitionTime = f"12{s:02d}{phase:02d}.5"
            if count != "none":
                d.CardiacNumberOfImages = cycle if count == "right" else 30
            origin = start + s * SPACING_MM * normal + jitter * rng.uniform(-0.02, 0.02) * normal
            d.ImageOrientationPatient = [float(f"{v:.6f}") for v in (*row, *column)]
            d.ImagePositionPatient = [float(f"{v:.4f}") for v in origin]
            d.PixelSpacing, d.SliceThickness, d.Rows, d.Columns = [1.5, 1.5], "8", SIZE_PX, SIZE_PX
            d.SamplesPerPixel, d.PhotometricInterpretation, d.PixelRepresentation = 1, "MONOCHROME2", 0
            d.BitsAllocated, d.BitsStored, d.HighBit = 16, 12, 11
            d.PixelData = image_of(s, phase, es, cycle).tobytes()
            files.append((s, phase, d))
    at_lost = None
    if lost:
        gone = int(rng.integers(1, len(files)))
        if files[gone][1] not in (ed, es):
            at_lost = files[gone][:2]
            del files[gone]
    if not two and (trigger or temporal) and not one_empty and chance(0.2):
        write_enhanced(folder, [files[k][2] for k in rng.permutation(len(files))], trigger, temporal)
        return Exam(slices, cycle, phases, ed, es, True, at_lost)
    for at, which in enumerate(rng.permutation(len(files)) if chance(0.7) else range(len(files))):
        s, _, d = files[which]
        below = folder / (f"{900 + s}" if per_slice else ".")
        below.mkdir(parents=True, exist_ok=True)
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR, d.SOPInstanceUID
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if bare else ExplicitVRLittleEndian
        written = pydicom.FileDataset(None, d, preamble=None if bare else b"\0" * 128, file_meta=None if bare else meta)
        if bare:
            pydicom.dcmwrite(below / f"{at:05d}{'.dcm' * suffix}", d, implicit_vr=True, little_endian=True,
                             enforce_file_format=False)
        else:
            written.save_as(below / f"{at:05d}{'.dcm' * suffix}", enforce_file_format=True)
    ordered = (trigger and not one_empty) or temporal or numbers != "none" or clock
    return Exam(slices, cycle, phases, ed, es, ordered, at_lost)


def write_enhanced(folder: Path, images: list[pydicom.Dataset], trigger: bool, temporal: bool):
    """All images as one Enhanced MR object, their geometry and times in functional groups."""
    def group(**tags):
        item = pydicom.Dataset()
        for tag, value in tags.items():
            setattr(item, tag, value)
        return [item]

    whole, frames = pydicom.Dataset(), []
    first = images[0]
    for tag in ("StudyInstanceUID", "PatientID", "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
                "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation",
                "BitsAllocated", "BitsStored", "HighBit"):
        setattr(whole, tag, first.get(tag))
    whole.SOPClassUID, whole.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", generate_uid()
    for image in images:
        frame = pydicom.Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=image.ImagePositionPatient)
        if trigger:
            frame.CardiacSynchronizationSequence = group(NominalCardiacTriggerDelayTime=float(image.TriggerTime))
        if temporal:
            frame.FrameContentSequence = group(TemporalPositionIndex=image.TemporalPositionIdentifier)
        frame.PixelValueTransformationSequence = group(RescaleSlope="2", RescaleIntercept="-3")
        frames.append(frame)
    shared = pydicom.Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=first.ImageOrientationPatient)
    shared.PixelMeasuresSequence = group(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], frames
    whole.NumberOfFrames = len(images)
    stored = [(np.frombuffer(i.PixelData, np.uint16).astype(int) + 3) / 2 for i in images]
    whole.PixelData = np.concatenate(stored).astype(np.uint16).tobytes()
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = whole.SOPClassUID, whole.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    folder.mkdir(parents=True, exist_ok=True)
    pydicom.FileDataset(None, whole, preamble=b"\0" * 128, file_meta=meta).save_as(
        folder / "IM_0001", enforce_file_format=True)


def wrong_with(folder: Path, exam: Exam) -> str:
    """What was read wrongly of an exam; nothing where it is right, or refused for want of any order in time."""
    try:
        study, cine = read_study(folder), read_cine(folder)
    except StudyError as error:
        return "" if not exam.ordered and "order of the images in time" in str(error) else f"refused: {error}"
    if not exam.ordered:
        return "the order in time was made up"
    expected = np.arange(exam.slices) * 10 + 1
    if study.frames.shape[0] != exam.slices or not np.array_equal(study.frames[:, 0, 0, 0], expected):
        return f"slices {study.frames[:, 0, 0, 0] // 10}, not {exam.slices}"
    found = study.frames[:, 0, 1] // 10
    if not ((found[:, 0] == exam.ed).all() and (found[:, 1] == exam.es).all()):
        return f"ED and ES are {found.tolist()}, not {exam.ed} and {exam.es}"
    assert isinstance(cine, Cine)
    if not np.array_equal(cine.frames[:, 0, 1], exam.corners()):
        return f"phases {cine.frames[:, 0, 1].tolist()}, not {exam.phases}"
    return ""


def tree(root: Path, rng: np.random.Generator) -> dict[Path, Exam]:
    """One to three exams of different patients below a root, some under one StudyInstanceUID, with junk beside."""
    uid, found = generate_uid() if rng.random() < 0.3 else "", {}
    for k in range(int(rng.integers(1, 4))):
        folder = root / f"p{k}"
        found[folder] = write(folder, rng, patient=f"X{k}", uid=uid)
        if rng.random() < 0.3:
            (root / "notes").mkdir(exist_ok=True)
            (root / "notes" / "readme.txt").write_text("no image here")
    return found


def checked(seed: int) -> str:
    """What is wrong with the reading of one random tree."""
    rng, root = np.random.default_rng(seed), Path(tempfile.mkdtemp(prefix="exams-"))
    try:
        exams = tree(root / "in", rng)
        expected = {root / "in"} if len(exams) == 1 and not (root / "in" / "notes").exists() else set(exams)
        found = set(find_studies(root / "in"))
        if len(exams) > 1 and found != expected:
            return f"seed {seed}: found {sorted(p.name for p in found)} of {len(exams)}"
        return "; ".join(f"seed {seed}, {folder.name}: {wrong}" for folder, exam in exams.items()
                         if (wrong := wrong_with(folder, exam)))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    count, first = int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0])
    failures = []
    for seed in range(first, first + count):
        failures += [wrong] if (wrong := checked(seed)) else []
        if (seed + 1) % 500 == 0:
            print(f"trees {first} to {seed}: {len(failures)} read wrongly", *failures[-20:], sep="\n", flush=True)
    sys.exit(bool(failures))
