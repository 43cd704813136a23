"""Our side of each measurement: a function that does it once and waits."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cardiojax import data
from cardiojax.bench.workloads import Spec, Workload, frames_of, split_of, studies_of
from cardiojax.data import Split
from cardiojax.data.frames import Frames
from cardiojax.models import contours
from cardiojax.models.gaugan import GauganModel, new_networks, padded
from cardiojax.models.looks import new_networks as new_contours
from cardiojax.models.measuring import MeasuringModel
from cardiojax.models.ridge import UNCALIBRATED, Ridge
from cardiojax.models.sfera import Readout, Scaling, SferaModel, new_network
from cardiojax.nets.gaugan import padded_px
from cardiojax.ops.flops import flops, platform_of
from cardiojax.ops.host import on_host
from cardiojax.preparation import SIZE_PX
from cardiojax.train import resident
from cardiojax.train.contours import ContoursTask
from cardiojax.train.gaugan import GauganTask
from cardiojax.train.parallel import Parallel
from cardiojax.train.sfera import SferaTask
from cardiojax.units import LABELS

LOOPED = 10                # steps that one call of `with_input` takes
READ = 40                  # batches that one call of `reading` takes: more than lie ready before it


def ours(spec: Spec) -> Workload:
    """Raises KeyError for an unknown workload."""
    return {"train": training, "loop": with_input, "generate": generation, "predict": prediction,
            "input": reading}[spec.what](spec)


def task_of(spec: Spec, split: Split) -> SferaTask | ContoursTask | GauganTask:
    if spec.task == "sfera":
        return SferaTask(spec.sfera, split, split, options=spec.options)
    if spec.task == "contours":
        return ContoursTask(dataclasses.replace(spec.contours, stacks=0), split, split, options=spec.options)
    return GauganTask(spec.gaugan, Frames(split), Frames(split), options=spec.options)


def training(spec: Spec) -> Workload:
    """One step on a batch that lies on the devices."""
    step, batches, place, of_step = _stepping(spec)
    batch = place(next(batches))
    return Workload(lambda: jax.block_until_ready(step(batch)), spec.config.batch, spec.unit, of_step)


def with_input(spec: Spec) -> Workload:
    """Steps as the loop takes them, each on the next batch of records."""
    step, batches, place, of_step = _stepping(spec)

    def call():
        for _ in range(LOOPED - 1):
            step(place(next(batches)))
        jax.block_until_ready(step(place(next(batches))))

    return Workload(call, LOOPED * spec.config.batch, spec.unit, LOOPED * of_step)


def _stepping(spec: Spec) -> tuple[Callable, Iterator, Callable, float]:
    """A function that takes a step from where the last one ended, batches of records, what puts them on the devices,
    and the FLOPs of a step."""
    task = task_of(spec, split_of(spec))
    parallel = Parallel(task, spec.parallel, devices=jax.devices()[:spec.devices])
    with on_host():
        state = task.init(jax.random.key(0))
    place, key = parallel.place_batch, jax.random.key(1)
    own = {"process": jax.process_index(), "processes": jax.process_count(), "devices": spec.devices}
    batches = task.batches(0, **own)
    of_step = spec.devices * flops(parallel.traced(state, next(batches)).jaxpr, platform_of(parallel.devices[0]))
    if spec.resident:
        resident.check(task, parallel.local_devices[0])
        on_devices = resident.Resident(task, parallel)
        batches, place = on_devices.batches(0, **own), on_devices.place_batch
    state = parallel.place(state)

    def step(batch):
        nonlocal state
        state, metrics = parallel.step(state, batch, key)
        return metrics

    return step, batches, place, of_step


def generation(spec: Spec) -> Workload:
    """From masks on the device to images there, by the function that `GauganModel.generate` calls; or, `whole`, by that
    method, from NumPy masks to NumPy images."""
    config, frames = spec.gaugan, Frames(split_of(spec))
    with on_host():
        params, stats, *_ = jax.device_get(new_networks(config.net, jax.random.key(0)))
    model = GauganModel(config.net, frames.labels, params, stats,
                        table=None if spec.spade == "auto" else spec.spade == "table")
    masks = frames_of(frames, config).masks
    if spec.whole:
        return Workload(lambda: model.generate(masks), config.batch, spec.unit)
    masks = jnp.asarray(padded(masks, padded_px(config.net.size_px, config.net.upsamplings), "constant"))
    return Workload(lambda: jax.block_until_ready(model.apply(masks)), config.batch, spec.unit, model.flops(masks))


def prediction(spec: Spec) -> Workload:
    """From arrays on the host to volumes with deviations on the host, one view, by the function that the model's
    `predict` calls; or, `whole`, by `predict_many`, from prepared studies to `Prediction`s."""
    split = split_of(spec)
    slices, studies = data.max_slices(split), [split[i % len(split)] for i in range(spec.config.batch)]

    def of(model: MeasuringModel, call: Callable[[], Any]) -> Workload:
        def whole():
            list(model.predict_many(studies, spec.config.batch, slices))

        return Workload(whole if spec.whole else call, spec.config.batch, spec.unit)

    if spec.network == "contours":
        config = dataclasses.replace(spec.contours, views=1)
        with on_host():
            _, params, stats = jax.device_get(new_contours(config.net, jax.random.key(0)))
        model = contours.ContoursModel(config, tuple(range(len(LABELS))), params, stats, contours.UNCALIBRATED,
                                       np.zeros(3))
        batch = studies_of(split, SIZE_PX, config.batch)
        return of(model, lambda: jax.device_get(model.apply(batch)))
    config = dataclasses.replace(spec.sfera, views=1)
    with on_host():
        _, params, stats = jax.device_get(new_network(config.net, jax.random.key(0)))
    scaling, batch = Scaling.of(split.volumes_ml, split.slice_spacing_mm), studies_of(split, config.net.size_px,
                                                                                      config.batch)
    width = 2 * config.net.lstm_features
    zeros = np.zeros((2, width), np.float32)
    ridge = Ridge(zeros, np.zeros(2, np.float32), zeros[0], np.zeros((2, width, width), np.float32),
                  np.ones(2, np.float32), np.float32(0))
    sfera = SferaModel(config, params, stats, Readout(ridge, UNCALIBRATED, scaling), np.zeros(3))
    return of(sfera, lambda: np.asarray(sfera.apply(batch)))


def reading(spec: Spec) -> Workload:
    batches = task_of(spec, split_of(spec)).batches(0)
    return Workload(lambda: [next(batches) for _ in range(READ)], READ * spec.config.batch, spec.unit)
