"""The table of docs/speed.md, from the files that `cardiojax bench` writes: ours beside PyTorch's, machine by machine.

    python benchmarks/speed_table.py
"""

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ROWS = {"train_gaugan": "GauGAN G + D step, `large`, batch 4", "generate": "GauGAN images, `large`, batch 4",
        "train_sfera": "SFERA step, `small`, batch 8", "predict_latency": "SFERA, one study, `small`",
        "predict": "SFERA, 8 studies, `small`", "train_contours": "Contours step, `small`, 16 frames",
        "predict_contours": "Contours, 8 studies, `small`"}


def found(name: str) -> dict | None:
    file = RESULTS / f"bench_{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def time_of(result: dict, impl: str, dtype: str) -> str:
    ms = next(row["value"] for row in result["rows"] if row["what"].endswith(" call") and row["impl"] == impl
              and row["dtype"] == dtype)
    return f"{ms / 1000:.3g} s" if ms >= 200 else f"{ms:.3g} ms"


def lines() -> list[str]:
    """As Markdown: a row for each file, with the ratio on a machine without AMX (`*_no_amx`) where there is one."""
    made = ["| `benchmarks/results/bench_*.json` | ours | PyTorch float32 | PyTorch bf16 | float32 / float32 "
            "| its best / ours | the same without AMX |", "|---|---|---|---|---|---|---|"]
    for name, what in ROWS.items():
        if result := found(name):
            elsewhere = found(f"{name}_no_amx")
            made.append(" | ".join([
                f"| {what}, `{name}`", time_of(result, "cardiojax", "float32"), time_of(result, "torch", "float32"),
                time_of(result, "torch", "bfloat16"), f"{result['ratio_float32']:.2f}",
                f"**{result['ratio_to_peer']:.2f}**", f"{elsewhere['ratio_to_peer']:.2f} |" if elsewhere else "|"]))
    return made


if __name__ == "__main__":
    print("\n".join(lines()))
    for name in ROWS:
        for result in filter(None, (found(name), found(f"{name}_no_amx"))):
            print(f"{name}: {result['device']}, {result['commit'][:7]}")
