"""Networks that give images and sounds: style transfer, a DCGAN's generator, HiFi-GAN; a diffusion step."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from zoo_networks.parts import ZOO, Residual


def _mirrored(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(c_in, c_out, kernel, stride))


class Style(nn.Module):
    """Mirrored borders and instance normalization throughout, from bytes (Johnson et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()

        def layer(c_in: int, c_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
            return [_mirrored(c_in, c_out, kernel, stride), nn.InstanceNorm2d(c_out, affine=True)]

        self.enter = nn.Sequential(*layer(3, 8, 9), nn.ReLU(), *layer(8, 16, 3, 2), nn.ReLU())
        self.body = Residual(nn.Sequential(*layer(16, 16, 3), nn.ReLU(), *layer(16, 16, 3)))
        self.leave = nn.Sequential(nn.Upsample(scale_factor=2), *layer(16, 8, 3), nn.ReLU(), _mirrored(8, 3, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.body(self.enter(x)))


class Dcgan(nn.Module):
    """An image from 32 numbers by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()

        def up(c_in: int, c_out: int, stride: int = 2, padding: int = 1) -> list[nn.Module]:
            wider = nn.ConvTranspose2d(c_in, c_out, 4, stride, padding, bias=False)
            return [wider, nn.BatchNorm2d(c_out), nn.ReLU()]

        last = [nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*up(32, 48, 1, 0), *up(48, 24), *up(24, 16), *last)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z.view(z.shape[0], 32, 1, 1))


class HifiGan(nn.Module):
    """A waveform from a spectrogram: weights by length and direction, a mean of branches of several kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = weight_norm(nn.Conv1d(20, 32, 7, padding=3)), weight_norm(nn.Conv1d(8, 1, 7, padding=3))
        ups = nn.ConvTranspose1d(32, 16, 8, 4, 2), nn.ConvTranspose1d(16, 8, 4, 2, 1)
        self.ups = nn.ModuleList(weight_norm(up) for up in ups)
        self.branches = nn.ModuleList(
            nn.ModuleList(weight_norm(nn.Conv1d(c, c, k, padding=k // 2)) for k in (3, 5)) for c in (16, 8)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for up, branches in zip(self.ups, self.branches, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            first, second = (x + branch(F.leaky_relu(x, 0.1)) for branch in branches)
            x = (first + second) / 2
        return torch.tanh(self.last(F.leaky_relu(x)))


class TimedBlock(nn.Module):
    """Group normalization, SiLU, a convolution, the time's offset; twice, with a skip."""

    def __init__(self, channels: int, timed: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.time = nn.Linear(timed, channels)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(y)))


class Diffusion(nn.Module):
    """One step of a denoising U-Net: sinusoids of the time, group normalization, attention at the bottom."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(2 * channels, 3, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 16))
        self.fine, self.coarse = TimedBlock(channels, 16), TimedBlock(channels, 16)
        self.down, self.up = nn.Conv2d(channels, channels, 3, 2, 1), nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = nn.MultiheadAttention(channels, 2, batch_first=True)
        self.norm = nn.GroupNorm(4, 2 * channels)
        self.register_buffer("rates", torch.exp(-math.log(10000) * torch.arange(8) / 8))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        angles = time * self.rates[None]
        timed = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        fine = self.fine(self.first(x), timed)
        y = self.coarse(self.down(fine), timed)
        N, C, H, W = y.shape
        tokens = y.flatten(2).transpose(1, 2)
        y = y + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view(N, C, H, W)
        y = self.up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        return self.last(F.silu(self.norm(torch.cat([fine, y], 1))))


ZOO.enter("style_transfer", "Johnson et al. 2016", Style, (3, 32, 32), kinds=("bytes",))
ZOO.enter("dcgan", "Radford et al. 2016", Dcgan, (32,), kinds=("state",))
ZOO.enter("hifi_gan", "Kong et al. 2020", HifiGan, (20, 16), kinds=("features",))
ZOO.enter("diffusion_step", "Ho et al. 2020", Diffusion, (3, 16, 16), (1,), kinds=("image", "state"))
