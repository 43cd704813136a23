"""How many GPUs there are, without asking CUDA: who asks it before the processes have joined has chosen its devices."""

import os
from pathlib import Path


def visible_gpus() -> list[str]:
    """NVIDIA's that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return [str(i) for i in range(gpus_here())]
    return [name for name in said.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]


def gpus_here() -> int:
    """Of this machine, or of what its scheduler lets us see of it."""
    return len([f for f in Path("/dev").glob("nvidia*") if f.name.removeprefix("nvidia").isdigit()])
