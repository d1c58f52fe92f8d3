"""MobileViT, Swin, ConvNeXt V2, EfficientViT: attention and responses of channels among convolutions."""

import torch
from torch import nn
from torch.nn import functional as F

from zoo_networks.parts import CLASSES, ZOO, conv_bn, head
from zoo_networks.transformers import Block


class MobileVit(nn.Module):
    """Pixels at one place of their patch attend to each other, as rows of which an image has several."""

    patch = 2

    def __init__(self, width: int = 36) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2, act=nn.SiLU), conv_bn(16, 24, 3, 2, act=nn.SiLU))
        self.local = nn.Sequential(conv_bn(24, 24, act=nn.SiLU), nn.Conv2d(24, width, 1, bias=False))
        self.blocks = nn.Sequential(Block(width, 2, "out"), nn.LayerNorm(width))
        self.project, self.fuse = conv_bn(width, 24, 1, act=nn.SiLU), conv_bn(48, 24, act=nn.SiLU)
        self.last = head(24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.local(x)
        N, C, H, W = y.shape
        p, down, across = self.patch, H // self.patch, W // self.patch
        y = y.reshape(N * C * down, p, across, p).transpose(1, 2)
        y = y.reshape(N, C, down * across, p * p).transpose(1, 3).reshape(N * p * p, -1, C)
        y = self.blocks(y).view(N, p * p, -1, C).transpose(1, 3)
        y = y.reshape(N * C * down, across, p, p).transpose(1, 2).reshape(N, C, H, W)
        return self.last(self.fuse(torch.cat([x, self.project(y)], 1)))


def _windows(x: torch.Tensor, side: int) -> torch.Tensor:
    """[N, H, W, C] as [N windows, side side, C]."""
    N, H, W, C = x.shape
    return x.view(N, H // side, side, W // side, side, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, C)


def _image(windows: torch.Tensor, side: int, H: int, W: int) -> torch.Tensor:
    N = windows.shape[0] // (H * W // side // side)
    x = windows.view(N, H // side, W // side, side, side, -1)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(N, H, W, -1)


class WindowBlock(nn.Module):
    """Attention within windows, with a learned bias for each offset; shifted ones are rolled and masked."""

    def __init__(self, width: int, size: int, side: int, shift: int, heads: int = 2) -> None:
        super().__init__()
        self.size, self.side, self.shift, self.heads = size, side, shift, heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.table = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads) * 0.5)
        places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
        y, x = places[:, :, None] - places[:, None] + side - 1
        self.register_buffer("index", (y * (2 * side - 1) + x).flatten())
        self.register_buffer("mask", self._mask() if shift else None)

    def _mask(self) -> torch.Tensor:
        """-100 between parts of an image that only rolling brought together, [windows, 1, T, T]."""
        part = torch.zeros(self.size)
        part[-self.side : -self.shift], part[-self.shift :] = 1, 2
        parts = _windows((3 * part[:, None] + part)[None, :, :, None], self.side).squeeze(-1)
        apart = (parts[:, None] != parts[:, :, None]).float() * -100
        return apart[:, None]

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        N, T, C = x.shape
        q, k, v = self.qkv(x).reshape(N, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q * (C // self.heads) ** -0.5 @ k.transpose(-2, -1)
        scores = scores + self.table[self.index].view(T, T, -1).permute(2, 0, 1)[None]
        if self.mask is not None:
            count = self.mask.shape[0]
            masked = scores.view(N // count, count, self.heads, T, T) + self.mask[None]
            scores = masked.view(-1, self.heads, T, T)
        return self.project((scores.softmax(-1) @ v).transpose(1, 2).reshape(N, T, C))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, T, C = x.shape
        y = self.norm1(x).view(N, self.size, self.size, C)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = _image(self._attend(_windows(y, self.side)), self.side, self.size, self.size)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y.view(N, T, C)
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size, self.norm = size, nn.LayerNorm(4 * width)
        self.thin = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, _, C = x.shape
        x = x.view(N, self.size, self.size, C)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.thin(self.norm(x.view(N, -1, 4 * C)))


class Swin(nn.Module):
    """Windows of 4x4, shifted in every second block."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        fine = [WindowBlock(width, 8, 4, 0), WindowBlock(width, 8, 4, 2), Merge(width, 8)]
        self.blocks = nn.Sequential(*fine, WindowBlock(2 * width, 4, 4, 0), nn.LayerNorm(2 * width))
        self.last = nn.Linear(2 * width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        return self.last(self.blocks(x).mean(1))


class ResponseNorm(nn.Module):
    """Each channel of [N, H, W, C] by its length over the mean of all lengths."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.rand(1, 1, 1, channels) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (length / (length.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class ConvNextV2Block(nn.Module):
    """Depthwise 7x7, a perceptron over channels-last with a response norm, a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 4 * channels), nn.GELU(), ResponseNorm(4 * channels),
            nn.Linear(4 * channels, channels),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LinearAttention(nn.Module):
    """ReLU in the place of a softmax: keys times values first, divided by the sum of the keys' weights."""

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.project = conv_bn(channels, channels, 1, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, C, H, W = x.shape
        q, k, v = self.qkv(x).reshape(N, self.heads, 3 * C // self.heads, H * W).chunk(3, 2)
        v = F.pad(v, (0, 0, 0, 1), value=1.0)
        y = v @ k.relu().transpose(-1, -2) @ q.relu()
        y = y[:, :, :-1] / (y[:, :, -1:] + 1e-6)
        return x + self.project(y.reshape(N, C, H, W))


def convnext_v2() -> nn.Module:
    """Two stages."""
    fine, coarse = [nn.Conv2d(3, 16, 4, 4), ConvNextV2Block(16)], [ConvNextV2Block(32), ConvNextV2Block(32)]
    return nn.Sequential(*fine, nn.Conv2d(16, 32, 2, 2), *coarse, head(32))


def efficient_vit() -> nn.Module:
    """Two layers and linear attention."""
    stem = [conv_bn(3, 16, 3, 2, act=nn.Hardswish), conv_bn(16, 24, 3, 2, act=nn.Hardswish)]
    return nn.Sequential(*stem, LinearAttention(24), head(24))


ZOO.image("mobile_vit", "Mehta and Rastegari 2022", MobileVit, size=32)
ZOO.image("swin", "Liu et al. 2021", Swin, size=32)
ZOO.image("convnext_v2", "Woo et al. 2023", convnext_v2, size=32)
ZOO.image("efficient_vit", "Cai et al. 2023", efficient_vit, size=32)
