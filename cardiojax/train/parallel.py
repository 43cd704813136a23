"""One step on many devices: by `jit` over a "data" mesh, or by `pmap`. The step itself is written once, in the task."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cardiojax.data import Batch
from cardiojax.errors import InputError

Mode = Literal["jit", "pmap"]
AXIS = "data"


def check_batch(batch: int, devices: int, things: str = "studies"):
    """Batch sizes are global. Raises InputError with the sizes that fit."""
    if batch % devices:
        fit = sorted({max(devices, batch // devices * devices), (batch // devices + 1) * devices})
        raise InputError(f"a batch of {batch} {things} does not divide over {devices} devices; "
                         f"{' or '.join(map(str, fit))} would")


class Parallel:
    """Places state and batches on the devices and runs `task.step` there, donating the old state.

    `task.fixed` are arrays that a step reads and never changes: placed once, kept out of checkpoints.
    Equal to one device in outputs, gradients and batch statistics, also where devices hold unequal numbers of
    real slices.
    """

    def __init__(self, task: Any, mode: Mode = "jit", devices: list | None = None):
        self.devices = devices or jax.devices()
        self.mode = mode
        if mode == "jit":
            mesh = jax.make_mesh((len(self.devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices)
            self.replicated = NamedSharding(mesh, PartitionSpec())
            self.sharded = NamedSharding(mesh, PartitionSpec(AXIS))
            self._step = jax.jit(task.step, donate_argnums=0, out_shardings=(self.replicated, self.replicated))
            self.fixed = jax.device_put(task.fixed, self.replicated)
        else:
            self._step = jax.pmap(functools.partial(task.step, axis_name=AXIS), axis_name=AXIS, donate_argnums=0,
                                  in_axes=(0, 0, None, 0), devices=self.devices)
            self.fixed = self.place(task.fixed)

    def place(self, state: Any) -> Any:
        if self.mode == "jit":
            return jax.device_put(state, self.replicated)
        n = len(self.devices)
        stacked = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x)[None], (n, *np.shape(x))), state)
        mesh = jax.make_mesh((n,), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices)
        return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(AXIS)))

    def one(self, state: Any) -> Any:
        """The state as a single device would hold it: what is evaluated and saved."""
        return state if self.mode == "jit" else jax.tree.map(lambda x: x[0], state)

    def step(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        n = len(self.devices)
        if n > 1 and isinstance(batch, Batch):
            # packing real slices crosses devices, so each convolves its own padding
            batch = dataclasses.replace(batch, budget=None)
        if self.mode == "jit":
            return self._step(state, jax.device_put(batch, self.sharded), key, self.fixed)
        batch = jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), batch)
        state, metrics = self._step(state, batch, key, self.fixed)
        return state, jax.tree.map(lambda x: x[0], metrics)
