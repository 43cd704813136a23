"""Contours in plain PyTorch: one training step of both U-Nets on a batch of frames, and prediction of studies.

As a PyTorch user would make it fast: channels-last, optional bf16 autocast and `torch.compile` of both networks, real
slices alone, augmentation by `grid_sample`.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

COARSE_PX, FINE_PX, LABELS, LV = 80, 128, 4, 1


class Double(nn.Sequential):
    def __init__(self, fin: int, fout: int):
        super().__init__(*(layer for a, b in ((fin, fout), (fout, fout)) for layer in (
            nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))))


class UNet(nn.Module):
    def __init__(self, channels: int, width: int, halvings: int):
        super().__init__()
        widths = [width * 2**i for i in range(halvings + 1)]
        self.down = nn.ModuleList([Double(a, b) for a, b in itertools.pairwise([channels, *widths])])
        self.up = nn.ModuleList([Double(a + b, a) for a, b in itertools.pairwise(widths)])
        self.head = nn.Conv2d(width, LABELS, 1)

    def forward(self, x):
        x, skipped = x - 0.5, []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skipped.append(x)
        for block, skip in zip(reversed(self.up), reversed(skipped[:-1]), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, scale_factor=2, mode="nearest")], 1))
        return self.head(x)


def moved(planes, centre_px, size_px: int):
    """A square round each centre, randomly rotated, scaled, shifted and mirrored; (N, C, H, W) → (N, C, p, p)."""
    n, _, _, w = planes.shape
    angle, zoom = ((torch.rand(n, device=planes.device) * 2 - 1) * bound for bound in (3.14159, 0.18))
    mirror = 1 - 2 * (torch.rand(n, device=planes.device) < 0.5).float()
    cos, sin = torch.cos(angle) / torch.exp(zoom) * size_px / w, torch.sin(angle) / torch.exp(zoom) * size_px / w
    shift = (torch.rand(n, 2, device=planes.device) * 2 - 1) * 12 / 75 + centre_px.flip(-1) * 2 / w
    theta = torch.stack([torch.stack([mirror * cos, -mirror * sin, shift[:, 0]], -1),
                         torch.stack([sin, cos, shift[:, 1]], -1)], 1)
    grid = F.affine_grid(theta, [n, planes.shape[1], size_px, size_px], align_corners=False)
    return F.grid_sample(planes, grid, align_corners=False)


def recoloured(images):
    gamma, contrast, brightness = (
        (torch.rand(len(images), 1, 1, 1, device=images.device) * 2 - 1) * bound for bound in (0.3, 0.3, 0.15))
    return ((images.clamp_min(1e-6)**torch.exp(gamma) - 0.5) * torch.exp(contrast) + 0.5 + brightness).clamp(0, 1)


def segmentation(logits, shares):
    """Cross-entropy, soft Dice, LV area."""
    log_p = logits.float().log_softmax(1)
    p = log_p.exp()
    entropy = -(shares * log_p).sum(1).mean()
    overlap, sizes = (p * shares).sum((0, 2, 3)), (p + shares).sum((0, 2, 3))
    dice = ((2 * overlap + 1) / (sizes + 1))[1:].mean()
    area, true = p[:, LV].sum((1, 2)), shares[:, LV].sum((1, 2))
    return entropy + 1 - dice + 0.2 * (area - true).abs().sum() / true.sum().clamp_min(1)


class Trainer:
    """`step(images, masks, centre_px)` → loss; `predict(frames, n_slices, spacing_mm)` → volumes (B, 2) in ml."""

    def __init__(self, channels: int, coarse_width: int, width: int, halvings: int, autocast: bool, device: str = "cpu",
                 compiled: bool = False):
        torch.backends.cudnn.benchmark = True
        self.nets = nn.ModuleDict({"coarse": UNet(channels, coarse_width, halvings),
                                   "fine": UNet(channels, width, halvings)})
        self.nets = self.nets.to(device, memory_format=torch.channels_last).train()
        self.opt = torch.optim.AdamW(self.nets.parameters(), 3e-3, weight_decay=1e-4)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=autocast)
        self.run = {k: torch.compile(n, dynamic=False) if compiled else n for k, n in self.nets.items()}

    def step(self, images, masks, centre_px):
        """images: (N, C, 150, 150) uint8, masks: (N, 150, 150) labels."""
        labels = F.one_hot(masks.long(), LABELS).permute(0, 3, 1, 2)[:, 1:].float()
        planes, count = torch.cat([images.float() / 255, labels], 1), images.shape[1]
        loss = 0.0
        for name, source, centre, size in (("coarse", F.avg_pool2d(planes, 2), torch.zeros_like(centre_px), COARSE_PX),
                                           ("fine", planes, centre_px, FINE_PX)):
            seen = moved(source, centre, size)
            shares = torch.cat([1 - seen[:, count:].sum(1, keepdim=True), seen[:, count:]], 1)
            with self.autocast:
                logits = self.run[name](recoloured(seen[:, :count]).contiguous(memory_format=torch.channels_last))
            loss = loss + segmentation(logits, shares)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss

    def predict(self, frames, n_slices, spacing_mm):
        """frames: (B, S, 150, 150, 2) uint8, single frames without neighbours; one view."""
        with torch.inference_mode():
            real = torch.arange(frames.shape[1], device=frames.device) < n_slices[:, None]
            images = frames.permute(0, 1, 4, 2, 3)[real].float() / 255                           # (r, 2, 150, 150)
            study = torch.nonzero(real)[:, 0]
            flat = images.reshape(-1, 1, *images.shape[2:])
            seen = self._probabilities("coarse", F.pad(F.avg_pool2d(flat, 2), (2, 3, 2, 3)))
            heart = seen[:, 1:].sum(1).reshape(len(images), 2, COARSE_PX, COARSE_PX).sum(1)
            heart = torch.zeros(len(frames), COARSE_PX, COARSE_PX, device=frames.device).index_add_(0, study, heart)
            at = torch.arange(COARSE_PX, device=frames.device) - 39.0
            total = heart.sum((1, 2)).clamp_min(1)
            centre = torch.stack([(heart.sum(2) * at).sum(1), (heart.sum(1) * at).sum(1)], 1) / total[:, None]
            start = (75 - FINE_PX // 2 + FINE_PX + (2 * centre).round()).long()[study].tolist()
            wide = F.pad(images, (FINE_PX,) * 4)
            crops = torch.stack([image[:, y:y + FINE_PX, x:x + FINE_PX]
                                 for image, (y, x) in zip(wide, start, strict=True)])
            seen = self._probabilities("fine", crops.reshape(-1, 1, FINE_PX, FINE_PX))
            areas = seen[:, LV].sum((1, 2)).reshape(-1, 2)
            volumes = torch.zeros(len(frames), 2, device=frames.device).index_add_(0, study, areas)
            return volumes * spacing_mm[:, None] / 1000

    def _probabilities(self, name: str, images):
        with self.autocast:
            logits = self.run[name](images.contiguous(memory_format=torch.channels_last))
        return logits.float().softmax(1)
