"""What is measured: each workload is a function that does it once and waits, and how many things that is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cardiojax import data, phantom, preparation
from cardiojax.config import GAUGAN_PRESETS, SFERA_PRESETS, GauganConfig, SferaConfig
from cardiojax.data import Split, records
from cardiojax.data.frames import FrameBatch, Frames
from cardiojax.models.gaugan import GauganModel, new_networks, padded
from cardiojax.models.ridge import UNCALIBRATED, Ridge
from cardiojax.models.sfera import Readout, Scaling, SferaModel, new_network
from cardiojax.nets.gaugan import padded_px
from cardiojax.preparation.batch import Batch
from cardiojax.train.gaugan import GauganTask
from cardiojax.train.parallel import Parallel
from cardiojax.train.sfera import SferaTask

PHANTOMS = 16          # studies that stand for a dataset where none is named


@dataclasses.dataclass(frozen=True)
class Spec:
    """One side of a measurement."""

    what: str                        # train, generate, predict, input
    task: str = "gaugan"             # of train and input: sfera or gaugan
    preset: str = "small"
    batch: int = 0                   # 0: the preset's; for predict 1 is latency
    impl: str = "cardiojax"          # or torch
    dtype: str = "float32"
    compiled: bool = False           # torch.compile
    devices: int = 1
    data: str = ""                   # NAME:SPLIT; phantom studies by default
    data_dir: str = ""

    @property
    def name(self) -> str:
        return f"{self.impl} {self.dtype}" + (" compiled" if self.compiled else "")

    @property
    def config(self) -> SferaConfig | GauganConfig:
        return self.sfera if self.network == "sfera" else self.gaugan

    @property
    def sfera(self) -> SferaConfig:
        config = SFERA_PRESETS[self.preset]
        return dataclasses.replace(config, batch=self.batch or config.batch,
                                   net=dataclasses.replace(config.net, dtype=self.dtype))

    @property
    def gaugan(self) -> GauganConfig:
        """Without a perceptual network: neither side has one."""
        config = GAUGAN_PRESETS[self.preset]
        return dataclasses.replace(config, batch=self.batch or config.batch, perceptual="none",
                                   net=dataclasses.replace(config.net, dtype=self.dtype))

    @property
    def network(self) -> str:
        return {"generate": "gaugan", "predict": "sfera"}.get(self.what, self.task)


@dataclasses.dataclass(frozen=True)
class Workload:
    """`call` does `things` of `unit` and waits for them; `flops` of one call, where the compiler says."""

    call: Callable[[], None]
    things: int
    unit: str
    flops: float | None = None


def split_of(spec: Spec) -> Split:
    if spec.data:
        return data.open_split(spec.data, Path(spec.data_dir))
    count = max(PHANTOMS, spec.config.batch if spec.network == "sfera" else 0)
    return data.usable("phantom", [records.encode(preparation.prepare(phantom.study("dsb_like", i)))
                                   for i in range(count)])


def ours(spec: Spec) -> Workload:
    """Raises KeyError for an unknown workload."""
    return {"train": training, "generate": generation, "predict": prediction, "input": reading}[spec.what](spec)


def task_of(spec: Spec, split: Split) -> SferaTask | GauganTask:
    if spec.task == "sfera":
        return SferaTask(spec.sfera, split, split)
    return GauganTask(spec.gaugan, Frames(split), Frames(split))


def training(spec: Spec) -> Workload:
    task = task_of(spec, split_of(spec))
    parallel = Parallel(task, devices=jax.devices()[:spec.devices])
    state, batch, key = task.init(jax.random.key(0)), next(task.batches(0, devices=spec.devices)), jax.random.key(1)
    flops = (parallel.compiled(state, batch).cost_analysis() or {}).get("flops")
    state = parallel.place(state)

    def call():
        nonlocal state
        state, metrics = parallel.step(state, batch, key)
        jax.block_until_ready(metrics)

    return Workload(call, spec.config.batch, "studies" if spec.task == "sfera" else "images", flops)


def generation(spec: Spec) -> Workload:
    """From masks on the device to images there, by the function that `GauganModel.generate` calls."""
    config, frames = spec.gaugan, Frames(split_of(spec))
    model = GauganModel(config.net, frames.labels, *new_networks(config.net, jax.random.key(0))[:2])
    masks = jnp.asarray(padded(frames_of(frames, config).masks, padded_px(config.net.size_px, config.net.upsamplings),
                               "constant"))
    return Workload(lambda: jax.block_until_ready(model.apply(masks)), config.batch, "images", model.flops(masks))


def frames_of(frames: Frames, config: GauganConfig) -> FrameBatch:
    """The same batch of frames for either side."""
    which = np.random.default_rng(0).choice(len(frames), config.batch, replace=False)
    return frames.batch(which, config.net.size_px)


def studies_of(split: Split, config: SferaConfig) -> Batch:
    """The same batch of studies for either side."""
    return next(data.evaluation_batches(split, size_px=config.net.size_px, batch=config.batch,
                                        slices=data.max_slices(split)))


def prediction(spec: Spec) -> Workload:
    """From arrays on the host to volumes with deviations on the host, one view, by the function that
    `SferaModel.predict` calls."""
    config, split = dataclasses.replace(spec.sfera, views=1), split_of(spec)
    _, params, stats = new_network(config.net, jax.random.key(0))
    scaling, batch = Scaling.of(split.volumes_ml, split.slice_spacing_mm), studies_of(split, config)
    width = 2 * config.net.lstm_features
    zeros = np.zeros((2, width), np.float32)
    ridge = Ridge(zeros, np.zeros(2, np.float32), zeros[0], np.zeros((2, width, width), np.float32),
                  np.ones(2, np.float32), np.float32(0))
    model = SferaModel(config, params, stats, Readout(ridge, UNCALIBRATED, scaling), np.zeros(3))
    return Workload(lambda: jax.device_get(model.apply(batch)), config.batch, "studies")


def reading(spec: Spec) -> Workload:
    batches = task_of(spec, split_of(spec)).batches(0)
    return Workload(lambda: next(batches), spec.config.batch, "studies" if spec.task == "sfera" else "images")


def theirs(spec: Spec) -> Workload:
    """The PyTorch twin on the same arrays. Raises KeyError for what has none."""
    return {"train": torch_training, "generate": torch_generation, "predict": torch_prediction}[spec.what](spec)


def torch_training(spec: Spec) -> Workload:
    import torch
    if spec.task == "gaugan":
        trainer, one_hot, images = torch_gaugan(spec)
        return Workload(waited(lambda: trainer.step(one_hot, images)), spec.config.batch, "images")
    trainer, frames, n_slices = torch_sfera(spec)
    volumes, areas = torch.rand(len(frames), 2), torch.rand(*frames.shape[:2], 2)
    volumes, areas = volumes.to(frames.device), areas.to(frames.device)
    return Workload(waited(lambda: trainer.step(frames, n_slices, volumes, areas)), spec.config.batch, "studies")


def torch_generation(spec: Spec) -> Workload:
    import torch
    trainer, one_hot, _ = torch_gaugan(spec)
    trainer.g.eval()

    def call():
        with torch.inference_mode(), trainer.autocast:
            trainer.run_g(one_hot)

    return Workload(waited(call), spec.config.batch, "images")


def torch_prediction(spec: Spec) -> Workload:
    trainer, frames, n_slices = torch_sfera(spec)
    trainer.net.eval()
    return Workload(waited(lambda: trainer.predict(frames, n_slices).cpu()), spec.config.batch, "studies")


def torch_gaugan(spec: Spec):
    import torch

    from cardiojax.bench.twins import spade_torch
    net, batch = spec.gaugan.net, frames_of(Frames(split_of(spec)), spec.gaugan)
    size = padded_px(net.size_px, net.upsamplings)
    trainer = spade_torch.Trainer(
        spade_torch.Generator(net.classes, net.channels, net.ngf, net.hidden, net.upsamplings),
        spade_torch.Discriminator(net.classes, net.channels, net.ndf), spec.dtype == "bfloat16", torch_device(),
        spec.compiled)
    labels = torch.tensor(np.asarray(padded(batch.masks, size, "constant")), device=torch_device()).long()
    one_hot = torch.nn.functional.one_hot(labels, net.classes).permute(0, 3, 1, 2).float()
    images = torch.tensor(np.asarray(padded(batch.images / np.float32(127.5) - 1, size, "reflect")),
                          device=torch_device())[:, None]
    return trainer, one_hot.contiguous(memory_format=torch.channels_last), images


def torch_sfera(spec: Spec):
    import torch

    from cardiojax.bench.twins import sfera_torch
    net, batch = spec.sfera.net, studies_of(split_of(spec), spec.sfera)
    trainer = sfera_torch.Trainer(
        sfera_torch.Sfera(net.size_px, net.width, net.blocks, net.spatial_features, net.lstm_features, net.dropout),
        spec.dtype == "bfloat16", torch_device(), spec.compiled)
    frames = torch.tensor(batch.frames, device=torch_device()).permute(0, 1, 4, 2, 3).contiguous()
    return trainer, frames, torch.tensor(batch.n_slices).long()


def torch_device() -> str:
    import torch
    return "cuda" if torch.cuda.is_available() else "cpu"


def waited(call: Callable) -> Callable[[], None]:
    import torch

    def wait():
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return wait
