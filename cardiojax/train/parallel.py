"""A task's step on many devices and hosts, by `jit` over a "data" mesh or by `pmap`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Int

from cardiojax.data.batches import Reading
from cardiojax.errors import InputError
from cardiojax.ops.compiler import ON_TPU
from cardiojax.preparation.batch import Batch

Mode = Literal["jit", "pmap"]
AXIS = "data"


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a step is computed: what may differ between two machines that train the same run."""

    parallel: Mode = "jit"
    """How the step is spread over the devices."""
    accumulate: int = 1
    """Micro-batches that a step's gradients are added up from, one after the other, to spare memory. Losses and batch
    statistics are then each micro-batch's own, so this is one of the settings that a resumed run must keep."""
    remat: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    spade: Literal["auto", "table", "dense"] = "auto"
    """Of a GauGAN, how γ and β are computed: for every pixel (dense), or once for each neighbourhood of labels, from a
    table whose rows are counted on the data (table). auto: on a GPU table, on a CPU one that needs no count, else
    dense."""
    workers: int = 0
    """Threads of a process that read records ahead; 0: one a core, sixteen at most."""
    keep_gib: float | None = None
    """Of the records' arrays, kept in a process's memory once they were read, in GiB, so that later epochs read and
    decode nothing; 0: none. By default a sixteenth of the memory."""
    resident: bool = False
    """Of SFERA: keep all training studies in the memory of every device (at 150 pixels half a MB each), so that a step
    is sent their numbers alone. They are read before the first step."""
    profile: Path | None = None
    """Write a trace of five steps to this folder (TensorBoard and Perfetto read it)."""
    dry_run: bool = False
    """Compile the step, print shapes, parameters, FLOPs, memory and what the devices send each other, and leave."""
    topology: str = ""
    """With --dry-run: compile for the chips of this TPU slice, for example v5e:2x4, which need not be here."""

    def __post_init__(self):
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, not {self.accumulate}")
        if self.keep_gib is not None and self.keep_gib < 0:
            raise ValueError(f"keep_gib must not be negative, but is {self.keep_gib}")

    @property
    def reading(self) -> Reading:
        return Reading(self.workers, self.keep_gib)


DEFAULT = StepOptions()


def check_batch(batch: int, devices: int, unit: str = "studies", accumulate: int = 1):
    """Batch sizes are global. Raises InputError with the sizes that fit."""
    if batch % (parts := devices * accumulate):
        fit = sorted({max(parts, batch // parts * parts), (batch // parts + 1) * parts})
        micro = f" in {accumulate} micro-batches" if accumulate > 1 else ""
        raise InputError(f"a batch of {batch} {unit} does not divide over {devices} devices{micro}; "
                         f"{' or '.join(map(str, fit))} would")


def gradients(loss: Callable, params: Any, state: Any, batch: Any, parts: int = 1) -> tuple[Any, Any, dict]:
    """Mean gradient of `loss(params, state, batch) → value, (state, metrics)` over `parts` micro-batches, the state
    after the last of them, and their mean metrics. Each device's share of the batch is split for itself.

    `optax.microbatch` does not carry a state from one micro-batch to the next.
    """
    gradient = jax.grad(loss, has_aux=True)
    if parts == 1:
        total, (state, metrics) = gradient(params, state, batch)
        return total, state, metrics

    def add(carry, micro):
        total, state = carry
        grads, (state, metrics) = gradient(params, state, micro)
        return (jax.tree.map(jnp.add, total, grads), state), metrics

    def split(x):
        return x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    (total, state), metrics = jax.lax.scan(add, (jax.tree.map(jnp.zeros_like, params), state),
                                           jax.tree.map(split, batch))
    return jax.tree.map(lambda x: x / parts, total), state, jax.tree.map(lambda x: x.mean(axis=0), metrics)


class Parallel:
    """Places state and batches on the devices and runs `task.step` there, donating the old state: by `jit` of a
    `shard_map` over a mesh, or by `pmap`. Each device sees its part of the batch; what needs the whole batch sums over
    AXIS.

    `task.constants` are arrays that a step reads and never changes: placed once, kept out of checkpoints. `devices` are
    those of all processes; each process brings its own part of a batch.
    Equal to one device in outputs, gradients and batch statistics, also where devices hold unequal numbers of
    real slices.
    """

    def __init__(self, task: Any, mode: Mode = "jit", devices: list | None = None):
        self.devices = devices or jax.devices()
        self.mode = mode
        self.local_devices = [d for d in self.devices if d.process_index == jax.process_index()]
        self.single_process = len(self.local_devices) == len(self.devices)
        self.replicated, self.sharded = shardings(self.devices)
        self.local_replicated, self.local_sharded = shardings(self.local_devices)
        self.local_device_count = len(self.local_devices)
        self.of_task = task.step
        self._step = on_devices(task.step, mode, tuple(self.devices))
        self.constants_on_host = task.constants

    @functools.cached_property
    def constants(self) -> Any:
        return self.place(self.constants_on_host)

    def place(self, state: Any) -> Any:
        """A state (of `init`, `gathered` or a checkpoint) as the step takes it."""
        if self.mode == "jit":
            return self._put(state, self.replicated)
        n = self.local_device_count
        stacked = jax.tree.map(lambda x: np.broadcast_to(local(x)[None], (n, *np.shape(x))), state)
        return self._put(stacked, self.sharded)

    def _put(self, tree: Any, sharding: NamedSharding) -> Any:
        if self.single_process:
            return jax.device_put(tree, sharding)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, local(x)), tree)

    def gathered(self, state: Any) -> Any:
        """The state as a single device would hold it, on all of them: what is saved."""
        if self.mode == "jit":
            return state
        if self.single_process:
            return jax.tree.map(lambda x: x[0], state)
        # on the host: a computation beside the step's collectives, in another order on another process, would block
        return self._put(jax.tree.map(lambda x: local(x)[0], state), self.replicated)

    def local_state(self, state: Any) -> Any:
        """The same on this process's devices alone, for evaluation: every process evaluates for itself."""
        state = self.gathered(state)
        return state if self.single_process else jax.device_put(jax.tree.map(local, state), self.local_replicated)

    def local_batch(self, batch: Any) -> Any:
        """A batch to evaluate, over this process's devices."""
        if self.local_device_count == 1:
            return batch
        if isinstance(batch, Batch):        # left to the compiler, packed slices would span all devices
            batch = dataclasses.replace(batch, slice_budget=None)
        return jax.device_put(batch, self.local_sharded)

    def abstract(self, state: Any) -> Any:
        """Shapes, types and shardings to restore a checkpoint with."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=self.replicated), state)

    def traced(self, state: Any, batch: Any) -> jax.stages.Traced:
        """The step, from shapes alone; with several devices, what each of them does. batch: as one process brings it.
        By jit: a pmap does the same, and JAX does not let it be traced."""
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
            (len(x) * jax.process_count(), *x.shape[1:]), x.dtype, sharding=self.sharded), batch)
        step = on_devices(self.of_task, "jit", tuple(self.devices))
        return step.trace(self.abstract(state), batch, jax.random.key(0), self.abstract(self.constants_on_host))

    def lowered(self, state: Any, batch: Any, platform: str | None = None) -> jax.stages.Lowered:
        """The same, lowered for these devices, or as for a `platform` ("cuda", "tpu") that is not here."""
        return self.traced(state, batch).lower(lowering_platforms=None if platform is None else (platform,))

    def compiled(self, state: Any, batch: Any) -> jax.stages.Compiled:
        """The same, compiled."""
        return self.lowered(state, batch).compile()

    def place_batch(self, batch: Any) -> Any:
        """This process's part of a batch, on its devices as the step takes it."""
        if self.mode == "pmap":
            n = self.local_device_count
            batch = jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), batch)
        return self._put(batch, self.sharded)

    def of_all_processes(self, batch: Any) -> Any:
        """A batch that is split over this process's devices (`local_sharded`), as its part of the whole one."""
        def joined(x):
            return jax.make_array_from_single_device_arrays(
                (len(x) // self.local_device_count * len(self.devices), *x.shape[1:]), self.sharded,
                [part.data for part in x.addressable_shards])

        return batch if self.single_process else jax.tree.map(joined, batch)

    def step(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, dict[str, jax.typing.ArrayLike]]:
        """One step on a batch of `place_batch`."""
        constants = self.constants                         # placed at the first step, which the guard would not have
        # pmap copies the key to its mesh
        guard = "disallow" if self.mode == "jit" or self.single_process else "allow"
        with jax.transfer_guard_host_to_device(guard), jax.transfer_guard_device_to_host(guard):
            state, metrics = self._step(state, batch, key, constants)        # nothing but the batch goes across
        return state, metrics if self.mode == "jit" else jax.tree.map(lambda x: local(x)[0], metrics)


@functools.lru_cache(maxsize=16)
def on_devices(of_task: Callable, mode: Mode, devices: tuple) -> Any:
    """A task's step, jitted; the trainings of one process whose steps are equal trace and compile it once."""
    def step(state, batch, key, constants):                # traces and profiles call it that
        return of_task(state, batch, key, constants, AXIS if mode == "pmap" or len(devices) > 1 else None)

    if mode == "pmap":
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0, in_axes=(0, 0, None, 0), devices=devices)
    options = ON_TPU if devices[0].platform == "tpu" else None
    if len(devices) > 1:        # by shard_map: the compiler would spread tables of neighbourhoods and packed slices
        replicated, sharded = shardings(devices)
        step = jax.shard_map(
            step, mesh=replicated.mesh, check_vma=False, out_specs=replicated.spec,
            in_specs=(replicated.spec, sharded.spec, replicated.spec, replicated.spec))
    return jax.jit(step, donate_argnums=0, compiler_options=options)


def share_of(indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Those that this process works on where all have the same to do; at least one."""
    mine = indices[jax.process_index()::jax.process_count()]
    return mine if len(mine) else indices[:1]


def of_all(rows: np.ndarray, count: int) -> np.ndarray:
    """What every process has of its `share_of` as one process would have it."""
    if jax.process_count() == 1:
        return rows
    most = -(-count // jax.process_count())
    padded = np.concatenate([rows, np.repeat(rows[-1:], most - len(rows), axis=0)])
    return multihost_utils.process_allgather(padded).swapaxes(0, 1).reshape(-1, *rows.shape[1:])[:count]


def shardings(devices: Sequence) -> tuple[NamedSharding, NamedSharding]:
    """Replicated over a mesh of these devices, and split over them."""
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))


def local(x: Any) -> np.ndarray:
    """What this process holds of a replicated array, or of one that is split: its first part."""
    return np.asarray(x.addressable_data(0) if isinstance(x, jax.Array) else x)
