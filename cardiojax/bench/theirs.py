"""PyTorch's side of each measurement: the twin of our network on the same arrays."""

from collections.abc import Callable

import numpy as np

from cardiojax.bench.workloads import Spec, Workload, frames_of, split_of, studies_of
from cardiojax.data.frames import Frames
from cardiojax.data.labelled import labelled_batches
from cardiojax.models.gaugan import padded
from cardiojax.nets.gaugan import padded_px
from cardiojax.preparation import SIZE_PX


def theirs(spec: Spec) -> Workload:
    """The PyTorch twin on the same arrays. Raises KeyError for what has none."""
    return {"train": torch_training, "generate": torch_generation, "predict": torch_prediction}[spec.what](spec)


def torch_training(spec: Spec) -> Workload:
    import torch
    if spec.task == "gaugan":
        trainer, one_hot, images = torch_gaugan(spec)
        return Workload(waited(lambda: trainer.step(one_hot, images)), spec.config.batch, spec.unit)
    if spec.task == "contours":
        trainer, split = torch_contours(spec)
        frames = Frames(split)
        batch = next(labelled_batches(frames, np.array([], int), neighbours=spec.contours.net.neighbours,
                                      batch=spec.contours.batch, stacks=0, seed=0))
        images, masks, centre = (torch.tensor(a, device=torch_device())
                                 for a in (np.moveaxis(batch.images, -1, 1), batch.masks, batch.centre_px))
        return Workload(waited(lambda: trainer.step(images, masks, centre)), spec.contours.batch, spec.unit)
    trainer, frames, n_slices = torch_sfera(spec)
    volumes, areas = torch.rand(len(frames), 2), torch.rand(*frames.shape[:2], 2)
    volumes, areas = volumes.to(frames.device), areas.to(frames.device)
    return Workload(waited(lambda: trainer.step(frames, n_slices, volumes, areas)), spec.config.batch, spec.unit)


def torch_generation(spec: Spec) -> Workload:
    import torch
    trainer, one_hot, _ = torch_gaugan(spec)
    trainer.g.eval()

    def call():
        with torch.inference_mode(), trainer.autocast:
            trainer.run_g(one_hot)

    return Workload(waited(call), spec.config.batch, spec.unit)


def torch_prediction(spec: Spec) -> Workload:
    import torch
    if spec.network == "contours":
        trainer, split = torch_contours(spec)
        batch = studies_of(split, SIZE_PX, spec.contours.batch)
        trainer.nets.eval()
        arrays = [torch.tensor(a, device=torch_device())
                  for a in (batch.frames, batch.n_slices, batch.slice_spacing_mm)]
        return Workload(waited(lambda: trainer.predict(*arrays).cpu()), spec.contours.batch, spec.unit)
    trainer, frames, n_slices = torch_sfera(spec)
    trainer.net.eval()
    return Workload(waited(lambda: trainer.predict(frames, n_slices).cpu()), spec.config.batch, spec.unit)


def torch_contours(spec: Spec):
    from cardiojax.bench.twins import contours_torch
    net = spec.contours.net
    return contours_torch.Trainer(1 + 2 * net.neighbours, net.coarse_width, net.width, net.halvings,
                                  spec.dtype == "bfloat16", torch_device(), spec.compiled), split_of(spec)


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
    net, batch = spec.sfera.net, studies_of(split_of(spec), spec.sfera.net.size_px, spec.sfera.batch)
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
