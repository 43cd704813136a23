"""A run of one step of SGD, alone or as one of two processes: its checkpoint shows the gradients themselves, of which
RAdam would hide the size.

    python -m tests.sgd_step COORDINATOR PROCESS DATA_DIR FOLDER
"""

import contextlib
import dataclasses
import sys
from pathlib import Path

import jax
import optax
import pytest
from flax import nnx

from cardiojax import data
from cardiojax.config import SferaConfig, SferaNetConfig
from cardiojax.nets import sfera as nets
from cardiojax.train import hosts, loop, sfera
from cardiojax.train.parallel import Mode, Parallel, on_devices
from cardiojax.train.run import Run

CONFIG = SferaConfig(net=SferaNetConfig(size_px=75, width=2, blocks=2, spatial_features=6, lstm_features=5,
                                        dropout=0.1), batch=8, steps=1, evaluate_every=1, views=1)
SEED = 3


def forget_programs():
    """What was compiled before a network was changed under it, or of the changed one."""
    on_devices.cache_clear()
    jax.clear_caches()


def softened(x):
    """A ReLU without its kink; of fewer loops than softplus, which a compiler takes a third more time for."""
    return 0.5 * (x + jax.numpy.sqrt(x * x + 1))


@contextlib.contextmanager
def without_kinks():
    """SFERA without the kinks of ReLU and of maxima: there a gradient jumps with the last bit of a value, and which
    pixels lie there is up to the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnx, "relu", softened)
        patch.setattr(nets, "max_pool_2x2", lambda x: nnx.avg_pool(x, (2, 2), (2, 2)))
        forget_programs()
        yield
    forget_programs()


def task(data_dir: Path) -> sfera.SferaTask:
    splits = [data.open_split(f"phantom/dsb_like:{split}", data_dir) for split in ("train", "validation")]
    found = sfera.SferaTask(CONFIG, *splits)
    found.step = dataclasses.replace(found.step, optimiser=optax.sgd(1.0))
    return found


def opened(folder: Path) -> Run:
    return Run(folder, {"task": "sfera", "preset": "tiny", "config": dataclasses.asdict(CONFIG), "seed": SEED,
                        "data": {}, "parent": None})


def fit(data_dir: Path, folder: Path, mode: Mode, devices: list | None = None):
    found = task(data_dir)
    with opened(folder) as run, without_kinks():
        loop.fit(found, run, steps=1, batch=CONFIG.batch, evaluate_every=1, seed=SEED,
                 parallel=Parallel(found, mode, devices))


if __name__ == "__main__":
    coordinator, process, data_dir, folder = sys.argv[1:]
    hosts.join(coordinator, 2, int(process))
    jax.config.update("jax_disable_most_optimizations", True)
    for mode in ("jit", "pmap"):
        fit(Path(data_dir), Path(folder) / mode, mode)
