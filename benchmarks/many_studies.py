"""A thousand studies, one in ten broken in one of ten ways, measured by a command that is killed again and again.

    python benchmarks/many_studies.py --run RUN --json FILE

Every study must end as one row or one reason, whenever the command was killed. Studies are hard links of a few phantom
ones, so that a thousand take little room.
"""

import argparse
import collections
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

from cardiojax.phantom.dicom import write_study
from cardiojax.provenance import commit

KINDS = 8                  # different whole studies


def breakages(good: Path, room: Path) -> list[Path]:
    """Ten studies that cannot be measured, each for its own reason."""
    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, room / name))

    def edited(name: str, edit) -> Path:
        folder = copy(name)
        for file in folder.rglob("*.dcm"):
            header = pydicom.dcmread(file)
            edit(header)
            header.save_as(file)
        return folder

    cut = copy("cut_off")
    for file in cut.rglob("*.dcm"):
        file.write_bytes(file.read_bytes()[:2000])
    text = copy("text")
    for file in text.rglob("*.dcm"):
        file.write_text("no image")
    empty = copy("zero_bytes")
    for file in empty.rglob("*.dcm"):
        file.write_bytes(b"")
    single = copy("one_phase")
    for folder in {f.parent for f in single.rglob("*.dcm")}:
        for file in sorted(folder.glob("*.dcm"))[1:]:
            file.unlink()
    info = room / "info_alone"
    info.mkdir()
    (info / "Info.cfg").write_text("ED: 1\nES: x\n")
    pair = room / "half_a_pair"
    pair.mkdir()
    (pair / "ED.nii.gz").write_bytes(b"\x1f\x8b no more")
    packed = room / "archive"
    packed.mkdir()
    (packed / "broken.zip").write_bytes(b"PK\3\4 and no more")

    def black(header):
        header.PixelData = bytes(len(header.PixelData))

    return [cut, text, empty, single, info, pair, packed / "broken.zip",
            edited("no_position", lambda h: delattr(h, "ImagePositionPatient")),
            edited("no_spacing", lambda h: delattr(h, "PixelSpacing")), edited("black", black)]


def linked(source: Path, target: Path):
    if source.is_file():
        target = target.with_suffix(source.suffix)
        os.link(source, target)
    else:
        shutil.copytree(source, target, copy_function=os.link)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory(prefix="cardiojax-", dir=os.environ.get("TMPDIR")) as name:
        room = Path(name)
        (room / "whole").mkdir()
        for i in range(KINDS):
            write_study(room / "whole", "ukb_like", i, f"{i}", phases=6, other_views=False)
        whole, broken = sorted((room / "whole").iterdir()), breakages(room / "whole" / "0", room)
        bad = set(rng.choice(args.studies, args.studies // 10, replace=False).tolist())
        (room / "in").mkdir()
        for i in range(args.studies):
            source = broken[i % len(broken)] if i in bad else whole[i % KINDS]
            linked(source, room / "in" / f"case{i:04d}")
        result = killed_and_resumed(args, room, rng)
        rows = collections.Counter(row["study_id"] for row in csv.DictReader((room / "v.csv").open()))
        names = {f"case{i:04d}" for i in range(args.studies)}
        good = names - {f"case{i:04d}" for i in bad}
        result |= {"studies": args.studies, "broken": len(bad), "measured": len(rows),
                   "more_than_once": sum(n > 1 for n in rows.values()),
                   "wrongly_missing": sorted(good - set(rows)), "wrongly_measured": sorted(set(rows) - good),
                   "without_a_reason": sorted(names - set(rows) - result.pop("named")), "commit": commit()}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return bool(result["more_than_once"] or result["wrongly_missing"] or result["wrongly_measured"]
                or result["without_a_reason"])


def killed_and_resumed(args, room: Path, rng: np.random.Generator) -> dict:
    """Runs the command until it ends, the first times killed at a random row; speed and memory of the last run."""
    command = [sys.executable, "-m", "cardiojax", "predict", str(room / "in"), "--run", str(args.run), "--csv",
               str(room / "v.csv"), "--resume", "--report", str(room / "report")]
    kills = sorted(rng.integers(1, int(0.7 * args.studies), args.kills).tolist())
    for at in kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and rows_in(room / "v.csv") < at:
            time.sleep(0.01)
        process.kill()
        process.wait()
    before, start, memory = rows_in(room / "v.csv"), None, []
    with (room / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            if rows_in(room / "v.csv") > before:
                start = start or (time.monotonic(), rows_in(room / "v.csv"))
                if found := re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text()):
                    memory.append(int(found[1]))         # none of a process that has just ended
            time.sleep(0.5)
    seconds, rows = time.monotonic() - start[0], rows_in(room / "v.csv") - start[1]
    said = (room / "log").read_text()
    assert "Traceback" not in said, said
    quarter = max(1, len(memory) // 4)
    return {"kills_at_rows": kills, "exit_code": process.returncode, "studies_per_s": round(rows / seconds, 2),
            "memory_mib": {"first_quarter": round(np.mean(memory[:quarter]) / 1024),
                           "last_quarter": round(np.mean(memory[-quarter:]) / 1024)},
            "named": set(re.findall(r"study (case\d+):", said)) | {
                f"case{n}" for n in re.findall(r"case(\d{4})(?:\.zip)?:? ", said)}}


def rows_in(table: Path) -> int:
    return max(0, table.read_bytes().count(b"\n") - 1) if table.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
