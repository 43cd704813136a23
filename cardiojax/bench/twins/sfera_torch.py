"""SFERA in plain PyTorch: one training step on a batch of padded studies, and prediction.

As a PyTorch user would make it fast: real slices alone are convolved (masked indexing, packed sequences),
channels-last, optional bf16 autocast and `torch.compile` of the encoder; augmentation by `grid_sample`.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, fin: int, fout: int):
        super().__init__()
        self.conv_0 = nn.Conv2d(fin, fout, 3, padding=1, bias=False)
        self.conv_1 = nn.Conv2d(fout, fout, 3, padding=1, bias=False)
        self.conv_s = nn.Conv2d(fin, fout, 1, bias=False)
        self.norm_0, self.norm_1, self.norm_s = (nn.BatchNorm2d(fout) for _ in range(3))

    def forward(self, x):
        h = F.relu(self.norm_0(self.conv_0(x)))
        return F.max_pool2d(F.relu(self.norm_1(self.conv_1(h)) + self.norm_s(self.conv_s(x))), 2)


class Sfera(nn.Module):
    def __init__(self, size_px: int, width: int, blocks: int, spatial: int, lstm: int, dropout: float):
        super().__init__()
        channels = [2] + [width * 2**i for i in range(blocks)]
        self.encoder = nn.Sequential(
            *(Block(a, b) for a, b in itertools.pairwise(channels)), nn.Flatten(),
            nn.Linear((size_px // 2**blocks)**2 * channels[-1], spatial), nn.ReLU())
        self.lstm = nn.LSTM(spatial, lstm, bidirectional=True, batch_first=True)
        self.head, self.offset = nn.Linear(2 * lstm, 2, bias=False), nn.Parameter(torch.full((2,), 0.3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames, real, lengths):
        """frames: (B, S, 2, H, W) in [0, 1]; real: (B, S) bool; lengths: (B,) on the CPU → volumes, areas."""
        encoded = self.encoder((frames[real] - 0.5).contiguous(memory_format=torch.channels_last)).float()
        stack = torch.zeros(*real.shape, encoded.shape[-1], device=frames.device)
        stack[real] = self.dropout(encoded)
        packed = nn.utils.rnn.pack_padded_sequence(stack, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True,
                                                      total_length=real.shape[1])
        return self.head(outputs.sum(1) / 10) + self.offset, self.head(outputs)


def augmented(frames, turn: float, scale: float, shift: float):
    """A random rotation, scale, shift, gamma and contrast for each study."""
    b, s, c, h, w = frames.shape
    angle, zoom = ((torch.rand(b, device=frames.device) * 2 - 1) * bound for bound in (turn, scale))
    cos, sin = torch.cos(angle) / torch.exp(zoom), torch.sin(angle) / torch.exp(zoom)
    moves = (torch.rand(b, 2, device=frames.device) * 2 - 1) * shift
    theta = torch.stack([torch.stack([cos, -sin, moves[:, 0]], -1), torch.stack([sin, cos, moves[:, 1]], -1)], 1)
    grid = F.affine_grid(theta, [b, s * c, h, w], align_corners=False)
    moved = F.grid_sample(frames.reshape(b, s * c, h, w), grid, align_corners=False).reshape(frames.shape)
    gamma, contrast = (torch.exp((torch.rand(b, 1, 1, 1, 1, device=frames.device) * 2 - 1) * 0.25) for _ in range(2))
    return ((moved.clamp_min(1e-6)**gamma - 0.5) * contrast + 0.5).clamp(0, 1)


def rmse(predicted, truth):
    """In float32: autocast leaves predictions in bfloat16, and a loss of mixed types has no backward pass."""
    return F.mse_loss(predicted.float(), truth).sqrt()


class Trainer:
    """`step(frames, n_slices, volumes, areas)` → loss; `predict(frames, n_slices)` → volumes."""

    def __init__(self, net: Sfera, autocast: bool, device: str = "cpu", compiled: bool = False):
        torch.backends.cudnn.benchmark = True
        self.net = net.to(device, memory_format=torch.channels_last).train()
        self.opt = torch.optim.RAdam(self.net.parameters(), 1e-3, weight_decay=1e-4, decoupled_weight_decay=True)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=autocast)
        if compiled:
            self.net.encoder = torch.compile(self.net.encoder, dynamic=True)

    def step(self, frames, n_slices, volumes, areas):
        frames = augmented(frames.float() / 255, 3.14, 0.18, 0.13)
        real = torch.arange(frames.shape[1], device=frames.device) < n_slices.to(frames.device)[:, None]
        with self.autocast:
            predicted, slices = self.net(frames, real, n_slices)
        loss = rmse(predicted, volumes) + rmse(slices[real], areas[real])
        self.opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.opt.step()
        return loss

    def predict(self, frames, n_slices):
        real = torch.arange(frames.shape[1], device=frames.device) < n_slices.to(frames.device)[:, None]
        with torch.inference_mode(), self.autocast:
            return self.net(frames.float() / 255, real, n_slices)[0]
