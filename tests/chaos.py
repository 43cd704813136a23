"""Long commands killed, terminated, out of disk, without permission, under a clock that jumps and started twice, at
random moments from a seed; started again, each must end as if nothing had been.

    python -m tests.chaos 1000 --json FILE          # so many disturbances, of all commands
    python -m tests.chaos 50 --commands predict "build synthetic"
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

import data_builders.acdc.acdc_dataset_builder  # noqa: F401  imported once: the commands are forked from here
from cardiojax.experiment import label_curve  # noqa: F401
from cardiojax.files import read_arrays, write_text
from cardiojax.models.saved import read_metrics
from cardiojax.provenance import commit
from cardiojax.train import gaugan  # noqa: F401
from tests.disturbances import DISTURBANCES, Command

PATIENTS, SHAPE = 8, (40, 44, 5)
PROMISED = {0, 1, 2, 75}           # done, some studies failed, an error in one line, stopped and saved
APPENDED = ("volumes.csv", "metrics.jsonl")        # line by line; the last may be cut off


@dataclasses.dataclass(frozen=True)
class Verb:
    """words: the command, given where its inputs and outputs are. outcome: what it has left, to be compared."""

    words: Callable[[Path, Path], list[str]]
    outcome: Callable[[Path], object]
    brings: tuple[str, ...] = ()        # folders of the inputs that must lie among the outputs


def bytes_below(folder: Path, *patterns: str) -> dict[str, str]:
    """A digest of each file of these names."""
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()[:12]
            for pattern in patterns for f in sorted(folder.glob(pattern)) if not f.name.startswith("partial-")}


def of_run(run: Path) -> dict:
    """The model's arrays, every step's losses (the last of those that were taken twice) and evaluations."""
    lines = {(m["kind"], m["step"]): {k: v for k, v in m.items() if k != "time"} for m in read_metrics(run)
             if m["kind"] in ("train", "validation")}
    with np.load(run / "model.npz") as arrays:
        weights = {name: hashlib.sha256(arrays[name].tobytes()).hexdigest()[:12] for name in sorted(arrays.files)}
    return {"weights": weights, "metrics": sorted(map(repr, lines.items()))}


def train(task: str, *words: str) -> Verb:
    return Verb(lambda given, out: ["train", task, "--preset", "tiny", "--data", "acdc:train", "--data-dir",
                                    str(given / "data"), "--run", str(out / "run"), "--steps", "4", "--evaluate-every",
                                    "2", "--batch", "2", *words], lambda out: of_run(out / "run"))


VERBS = {
    "predict": Verb(
        lambda given, out: ["predict", str(given / "patients/training"), "--run", str(given / "sfera"), "--csv",
                            str(out / "volumes.csv"), "--report", str(out / "report"), "--figures",
                            str(out / "figures"), "--resume", "--workers", "2"],
        lambda out: (sorted((out / "volumes.csv").read_text().splitlines()),
                     bytes_below(out, "report/*.html", "figures/*.png"))),
    "build": Verb(
        lambda given, out: ["build", "acdc", "--source", str(given / "patients"), "--data-dir", str(out)],
        lambda out: bytes_below(out, "acdc/full/*/*.array_record*", "acdc/full/*/exclusions.csv")),
    "build synthetic": Verb(
        lambda given, out: ["build", "synthetic", "--warp", "--from", "acdc:train", "--data-dir", str(out),
                            "--size", "40"],
        lambda out: bytes_below(out, "synthetic/uniform/*/*.array_record*", "synthetic/uniform/*/features.json"),
        ("acdc",)),
    "train sfera": train("sfera"),
    "train contours": train("contours"),
    "train gaugan": train("gaugan"),
    "experiment labels": Verb(
        lambda given, out: ["experiment", "labels", "--preset", "tiny", "--site", "acdc", "--pretraining",
                            "phantom/dsb_like", "--contours", str(given / "contours"), "--data-dir",
                            str(given / "data"), "--out", str(out / "labels"), "--shares", "1", "--seeds", "1",
                            "--pretraining-steps", "2", "--finetuning-steps", "2", "--sfera.batch", "2",
                            "--teaching.steps", "2", "--teaching.batch", "2"],
        lambda out: json.loads((out / "labels/label_curve.json").read_text())["points"]),
}


def patient(folder: Path, rng: np.random.Generator):
    """An invented patient in ACDC's layout: a ring of myocardium round an LV that beats, an RV beside it."""
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text("ED: 1\nES: 2\nGroup: NOR\n")
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    for frame, radius in ((1, rng.uniform(6, 9)), (2, rng.uniform(3, 6))):
        r = np.hypot(y - 20, x - 20)
        mask = np.where(r < radius, 3, np.where(r < radius + 3, 2, np.where(np.hypot(y - 20, x - 34) < 5, 1, 0)))
        image = rng.normal(60, 10, SHAPE) + 30 * mask[..., None]
        for data, name in ((image.astype(np.float32), ""),
                           (np.repeat(mask[..., None], SHAPE[2], 2).astype(np.uint8), "_gt")):
            out = nib.Nifti1Image(data, np.diag([-1.0, -1, 1, 1]))
            out.header["pixdim"][1:4] = 1.5, 1.5, 10.0
            nib.save(out, folder / f"{folder.name}_frame{frame:02d}{name}.nii.gz")


def half_written(out: Path) -> list[str]:
    """Files under their final names that are not whole."""
    found = []
    for file in sorted(f for f in out.rglob("*") if f.is_file()):
        unfinished = any(part.startswith(("partial-", "incomplete.", "info-")) or "orbax-checkpoint-tmp" in part
                         for part in file.relative_to(out).parts)
        if unfinished or file.name in APPENDED:
            continue
        try:
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".npz":
                read_arrays(file)
            elif file.suffix == ".png":
                Image.open(file).load()
            elif file.suffix == ".html":
                assert file.read_text().rstrip().endswith("</html>")
            elif file.suffix == ".csv":
                assert file.read_bytes().endswith(b"\n")
        except Exception as error:               # whatever a reader says of a part of a file
            found.append(f"{file.relative_to(out)}: {error!r}")
    return found


class Chaos:
    """Inputs of all commands in a folder, and what each command leaves when nobody disturbs it."""

    def __init__(self, folder: Path, names: list[str]):
        self.folder, self.given, self.verbs = folder, folder / "given", {name: VERBS[name] for name in names}
        rng = np.random.default_rng(0)
        for i in range(PATIENTS):
            patient(self.given / f"patients/training/patient{i:03d}", rng)
        self.undisturbed(["build", "acdc", "--source", str(self.given / "patients"), "--data-dir",
                          str(self.given / "data")])
        if "predict" in names:
            self.undisturbed(self.training(self.given / "sfera"))
        if "experiment labels" in names:
            self.undisturbed(["build", "phantom", "--config", "dsb_like", "--data-dir", str(self.given / "data")])
            self.undisturbed(["train", "contours", "--preset", "tiny", "--data", "phantom/dsb_like:train",
                              "--validation", "phantom/dsb_like:validation", "--data-dir", str(self.given / "data"),
                              "--run", str(self.given / "contours"), "--steps", "2", "--batch", "2"])
        self.outcome, self.seconds = {}, {}
        for name in self.verbs:
            for _ in range(2):                               # the first fills the compilation cache
                began = time.monotonic()
                out = self.fresh()
                self.undisturbed(self.words(name, out))
                self.seconds[name], self.outcome[name] = time.monotonic() - began, self.verbs[name].outcome(out)
            shutil.rmtree(out)

    def training(self, run: Path) -> list[str]:
        return [*VERBS["train sfera"].words(self.given, run.parent)[:-8], "--run", str(run), "--steps", "2", "--batch",
                "2"]

    def words(self, name: str, out: Path) -> list[str]:
        for brought in self.verbs[name].brings:
            if not (out / brought).exists():
                (out / brought).symlink_to(self.given / "data" / brought)
        return self.verbs[name].words(self.given, out)

    def fresh(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def undisturbed(self, words: list[str]):
        command = Command(words)
        assert command.end() == 0, f"{' '.join(words)}: {command.rc}\n{command.said[-3000:]}"

    def disturb(self, name: str, disturbance: Callable, rng: random.Random) -> set[int]:
        """Raises AssertionError where something was lost; the exit codes of what was disturbed."""
        out, started = self.fresh(), []
        words = self.words(name, out)

        def start(before: Callable[[], object] = lambda: None) -> Command:
            started.append(Command(words, before))
            return started[-1]

        try:
            codes = disturbance(start, out, self.seconds[name], rng)
            said = "\n".join(command.said for command in started)
            assert "Traceback" not in said, said[-1500:]
            assert codes <= PROMISED, (codes, said[-1500:])
            assert 2 not in codes or "cardiojax: error: " in said, said[-1500:]
            assert not (half := half_written(out)), half
            self.undisturbed(words)
            left, whole = self.verbs[name].outcome(out), self.outcome[name]
            assert left == whole, f"another result than undisturbed ({left} for {whole}) after {codes}: {said[-700:]}"
            return codes
        finally:
            shutil.rmtree(out)


def run(times: int, seed: int, names: list[str], file: Path | None = None) -> dict:
    """So many disturbances. Counts by command, disturbance and exit code; what was lost. After each of them they are in
    `file` too."""
    rng, counts, lost, result = random.Random(seed), collections.Counter(), [], {}           # noqa: S311
    with tempfile.TemporaryDirectory() as folder:
        chaos, of_code = Chaos(Path(folder), names), commit()
        for i in range(times):
            name, disturbance = rng.choice(names), rng.choice(DISTURBANCES)
            try:
                codes = chaos.disturb(name, disturbance, rng)
            except AssertionError as error:
                lost.append(f"{i}: {name}, {disturbance.__name__}: {error}")
                print(lost[-1], flush=True)
                codes = {-1}
            counts.update((name, disturbance.__name__, code) for code in codes)
            result = {"times": i + 1, "seed": seed, "commit": of_code, "seconds_undisturbed": chaos.seconds,
                      "lost": lost, "exit_codes": [[*key, count] for key, count in sorted(counts.items())]}
            if file:
                write_text(file, json.dumps(result, indent=1))
        return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("times", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    result = run(args.times, args.seed, args.commands, args.json)
    print(json.dumps(result["seconds_undisturbed"]), f"{len(result['lost'])} of {args.times} lost something")
    return 1 if result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
