"""docs/speed_all.md: every speed in benchmarks/results/, device by device, out of the files of `cardiojax bench`
(bench_*.json) and of benchmarks/machine.py (gpu_*.json).

    python benchmarks/all_speeds.py
"""

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "speed_all.md"
HEAD = """# All speeds

Every measurement that is committed, by device (`python benchmarks/all_speeds.py` writes this page). Files of one
device are of several days and commits: only what stands in one file was measured side by side.
[Speed](speed.md) says what they mean.
"""


class Speed(NamedTuple):
    """One side of one measurement."""

    what: str
    preset: str
    impl: str
    dtype: str
    batch: int
    ms: float
    per_s: float
    unit: str
    file: str


def of_bench(result: dict, file: str) -> Iterator[Speed]:
    for row in result["rows"]:
        if row["unit"].endswith("/s") and row["unit"] != "TFLOP/s":
            key = {k: row[k] for k in ("impl", "dtype", "devices", "batch")}
            ms = next(r["value"] for r in result["rows"]
                      if r["what"] == f"{row['what']} call" and key.items() <= r.items())
            where = f", {row['devices']} devices" if row["devices"] > 1 else ""
            yield Speed(row["what"] + where, result["preset"], row["impl"], row["dtype"], row["batch"], ms,
                        row["value"], row["unit"].removesuffix("/s"), file)


def of_machine(result: dict, file: str) -> Iterator[Speed]:
    for side, impl in (("ours", "cardiojax"), ("torch", "torch compiled")):
        for what, row in result.get(side, {}).items():
            yield Speed(what, result["preset"], impl, row["dtype"], row["batch"], row["ms"], row["per_s"], row["unit"],
                        file)


def by_device() -> dict[str, list[Speed]]:
    found = collections.defaultdict(list)
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        if file.name.startswith("bench_"):
            found[result["device"]] += of_bench(result, file.name)
        elif "ours" in result:
            device = result["device"]
            found[device if isinstance(device, str) else ", ".join(device)] += of_machine(result, file.name)
    return dict(sorted(found.items(), key=lambda item: (item[0].startswith("cpu"), item[0])))        # GPUs first


def page() -> str:
    lines = [HEAD]
    for device, speeds in by_device().items():
        lines += [f"## {device}", "", "| | preset | by | type | batch | a call, ms | a second | file |",
                  "|---|---|---|---|---|---|---|---|",
                  *(f"| {s.what} | {s.preset} | {s.impl} | {s.dtype} | {s.batch} | {s.ms:.4g} | {s.per_s:.4g} "
                    f"{s.unit} | `{s.file}` |" for s in speeds), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
