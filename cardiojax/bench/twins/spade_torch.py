"""The same GauGAN in plain PyTorch, with NVlabs' names, to measure ours against: one training step, and generation.

Deliberately the best that PyTorch offers without changing the mathematics: channels-last, optional bf16 autocast and
`torch.compile`; the label map is resized once a resolution; in the G step D's weights take no gradient and its real
half none at all.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

UPSAMPLINGS = {"few": 4, "normal": 5, "more": 6, "most": 7}


def leaky(x):
    return F.leaky_relu(x, 0.2)


class Spade(nn.Module):
    def __init__(self, channels: int, classes: int, hidden: int):
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(classes, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x, maps):
        hidden = self.mlp_shared(maps[x.shape[-1]])
        return self.param_free_norm(x) * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class Block(nn.Module):
    def __init__(self, fin: int, fout: int, classes: int, hidden: int):
        super().__init__()
        middle = min(fin, fout)
        self.conv_0 = spectral_norm(nn.Conv2d(fin, middle, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(middle, fout, 3, padding=1))
        self.norm_0, self.norm_1 = Spade(fin, classes, hidden), Spade(middle, classes, hidden)
        self.shortcut = fin != fout
        if self.shortcut:
            self.conv_s = spectral_norm(nn.Conv2d(fin, fout, 1, bias=False))
            self.norm_s = Spade(fin, classes, hidden)

    def forward(self, x, maps):
        h = self.conv_0(leaky(self.norm_0(x, maps)))
        h = self.conv_1(leaky(self.norm_1(h, maps)))
        return h + (self.conv_s(self.norm_s(x, maps)) if self.shortcut else x)


class Generator(nn.Module):
    def __init__(self, classes=4, channels=1, ngf=64, hidden=128, upsamplings="normal"):
        super().__init__()
        self.levels, self.mode = UPSAMPLINGS[upsamplings], upsamplings
        widths = [16 * ngf, 8 * ngf, 4 * ngf, 2 * ngf, ngf] + [ngf // 2] * (upsamplings == "most")
        self.fc = nn.Conv2d(classes, widths[0], 3, padding=1)
        self.head_0, self.G_middle_0, self.G_middle_1 = (Block(widths[0], widths[0], classes, hidden)
                                                         for _ in range(3))
        self.ups = [f"up_{i}" for i in range(len(widths) - 1)]
        for name, a, b in zip(self.ups, widths[:-1], widths[1:], strict=True):
            self.add_module(name, Block(a, b, classes, hidden))
        self.conv_img = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, one_hot):
        size = one_hot.shape[-1]
        maps = {size >> i: one_hot[:, :, ::1 << i, ::1 << i].contiguous(memory_format=torch.channels_last)
                for i in range(self.levels + 1)}

        def up(x):
            return F.interpolate(x, scale_factor=2, mode="nearest")

        x = self.head_0(self.fc(maps[size >> self.levels]), maps)
        x = self.G_middle_0(x if self.mode == "few" else up(x), maps)
        x = self.G_middle_1(up(x) if self.mode in ("more", "most") else x, maps)
        for name in self.ups:
            x = getattr(self, name)(up(x), maps)
        return torch.tanh(self.conv_img(leaky(x)).float())


class Patch(nn.Module):
    def __init__(self, fin: int, ndf: int):
        super().__init__()
        widths = [ndf, 2 * ndf, 4 * ndf, 8 * ndf]
        self.model0 = nn.Sequential(nn.Conv2d(fin, ndf, 4, 2, 2), nn.LeakyReLU(0.2))
        for i, stride in ((1, 2), (2, 2), (3, 1)):
            inner = nn.Sequential(spectral_norm(nn.Conv2d(widths[i - 1], widths[i], 4, stride, 2, bias=False)),
                                  nn.InstanceNorm2d(widths[i]))
            self.add_module(f"model{i}", nn.Sequential(inner, nn.LeakyReLU(0.2)))
        self.model4 = nn.Sequential(nn.Conv2d(widths[-1], 1, 4, 1, 2))

    def forward(self, x):
        features = []
        for i in range(5):
            x = getattr(self, f"model{i}")(x)
            features.append(x)
        return features


class Discriminator(nn.Module):
    def __init__(self, classes=4, channels=1, ndf=64):
        super().__init__()
        self.discriminator_0, self.discriminator_1 = (Patch(classes + channels, ndf) for _ in range(2))

    def forward(self, one_hot, images):
        x = torch.cat([one_hot, images], 1)
        return [self.discriminator_0(x),
                self.discriminator_1(F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))]


def deceit(on_fake) -> torch.Tensor:
    """−mean D(fake), over the scales: G's part of the hinge loss."""
    return sum(-scale[-1].float().mean() for scale in on_fake) / len(on_fake)


def matching(on_fake, on_real) -> torch.Tensor:
    """10 · L1 of the inner layers, over the scales."""
    return 10 * sum(F.l1_loss(a.float(), b.float()) for fake, real in zip(on_fake, on_real, strict=True)
                    for a, b in zip(fake[:-1], real[:-1], strict=True)) / len(on_fake)


def hinge(on_both, n: int) -> torch.Tensor:
    """D's loss on a batch of `n` fake images and the real ones after them."""
    return sum(F.relu(1 - scale[-1][n:].float()).mean() + F.relu(1 + scale[-1][:n].float()).mean()
               for scale in on_both) / len(on_both)


class Trainer:
    """G step, then D step on a fresh pass of the updated G: `step(one_hot, images)` → losses."""

    def __init__(self, generator: Generator, discriminator: Discriminator, autocast: bool, device: str = "cpu",
                 compiled: bool = False):
        torch.backends.cudnn.benchmark = True
        self.g, self.d = (m.to(device, memory_format=torch.channels_last).train() for m in (generator, discriminator))
        self.g_opt = torch.optim.Adam(self.g.parameters(), 1e-4, betas=(0.0, 0.9))
        self.d_opt = torch.optim.Adam(self.d.parameters(), 4e-4, betas=(0.0, 0.9))
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=autocast)
        self.run_g, self.run_d = (torch.compile(m) if compiled else m for m in (self.g, self.d))

    def step(self, one_hot, images):
        n = len(images)
        self.d.requires_grad_(False)
        with self.autocast:
            on_fake = self.run_d(one_hot, self.run_g(one_hot))
            self.d.eval()                    # no second power iteration; instance norm knows no mode
            with torch.no_grad():
                on_real = self.run_d(one_hot, images)
            self.d.train()
            g_loss = deceit(on_fake) + matching(on_fake, on_real)
        self.g_opt.zero_grad()
        g_loss.backward()
        self.g_opt.step()
        self.d.requires_grad_(True)
        with self.autocast:
            with torch.no_grad():
                fake = self.run_g(one_hot)
            both = self.run_d(torch.cat([one_hot, one_hot]), torch.cat([fake, images]))
            d_loss = hinge(both, n)
        self.d_opt.zero_grad()
        d_loss.backward()
        self.d_opt.step()
        return g_loss, d_loss
