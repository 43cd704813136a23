"""What the devices of a compiled program send to each other."""

import math
import re

SIZES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1, "f64": 8, "s64": 8}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Count and bytes of each kind of collective in an HLO module's text."""
    found: dict[str, dict[str, int]] = {}
    hlo = re.sub(r"/\*.*?\*/", "", hlo)                    # long tuples number their parts
    for shapes, kind in re.findall(rf"= (\([^=]*?\)|\S+) ({KINDS})(?:-start)?\(", hlo):
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        shapes = shapes.partition("), ")[2] if shapes.startswith("((") else shapes          # (operands, results)
        entry["count"] += 1
        entry["bytes"] += sum(SIZES[dtype] * math.prod(int(d) for d in dims.split(",") if d)
                              for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes))
    return found
