"""ViT, a keyword transformer, ConvNeXt, MLP-Mixer, a text classifier, and networks of two inputs."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from zoo_networks.parts import CLASSES, ZOO, conv_bn


class Attention(nn.Module):
    """Heads side by side. spelled: "out" as products and a softmax, or "fused" as PyTorch's one function."""

    def __init__(self, width: int, heads: int, spelled: Literal["out", "fused"]) -> None:
        super().__init__()
        self.heads, self.spelled = heads, spelled
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, T, C = x.shape
        q, k, v = self.qkv(x).reshape(N, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if self.spelled == "out":
            y = (q @ k.transpose(-2, -1) * (C // self.heads) ** -0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.project(y.transpose(1, 2).reshape(N, T, C))


class Block(nn.Module):
    """LayerNormalization first: attention, then a layer four times as wide with GELU."""

    def __init__(self, width: int, heads: int, spelled: Literal["out", "fused"]) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, spelled)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches by a strided convolution, a class token and learned positions (Dosovitskiy et al. 2021)."""

    def __init__(self, size: int, patch: int, width: int, depth: int, spelled: Literal["out", "fused"]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        count = (size // patch) ** 2
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, count + 1, width) * 0.3)
        self.blocks = nn.Sequential(*(Block(width, 3, spelled) for _ in range(depth)))
        self.norm, self.last = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.positions
        return self.last(self.norm(self.blocks(x))[:, 0])


class KeywordTransformer(nn.Module):
    """Frames as tokens, PyTorch's own encoder layer, a mean over time (Berg et al. 2021)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.enter = nn.Linear(40, width)
        self.positions = nn.Parameter(torch.randn(1, 49, width) * 0.3)
        layers = [nn.TransformerEncoderLayer(width, 4, 96, 0.0, F.gelu, batch_first=True) for _ in range(2)]
        self.layers, self.last = nn.ModuleList(layers), nn.Linear(width, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.last(x.mean(1))


class ChannelNorm(nn.Module):
    """LayerNormalization over the channels of [N, C, H, W], spelled out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.bias[:, None, None]


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, then a perceptron over channels-last with GELU, a learned scale, a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.gamma = nn.Parameter(torch.rand(channels) * 0.5 + 0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        return x + (self.gamma * self.mlp(self.norm(y))).permute(0, 3, 1, 2)


def convnext(widths: tuple[int, ...] = (16, 32, 64), depths: tuple[int, ...] = (2, 2, 3)) -> nn.Module:
    """A 4x4 stem, stages with strided 2x2 convolutions between (Liu et al. 2022)."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if stage:
            layers += [ChannelNorm(widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, 2)]
        layers += [ConvNextBlock(width) for _ in range(depth)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.LayerNorm(widths[-1], eps=1e-6)]
    return nn.Sequential(*layers, *pool, nn.Linear(widths[-1], CLASSES))


class MixerBlock(nn.Module):
    """Perceptrons over tokens and over channels (Tolstikhin et al. 2021)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.over_channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.over_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches, mixer blocks, a mean."""

    def __init__(self, size: int = 32, patch: int = 8, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock((size // patch) ** 2, width) for _ in range(3)))
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.last(self.norm(x).mean(1))


class TextClassifier(nn.Module):
    """Token indices: embeddings, one encoder block, 1-d convolutions and a maximum over time (Kim 2014)."""

    def __init__(self, words: int = 200, width: int = 48) -> None:
        super().__init__()
        self.embed, self.block = nn.Embedding(words, width), Block(width, 3, "out")
        self.convs = nn.ModuleList(nn.Conv1d(width, 24, kernel) for kernel in (3, 5))
        self.last = nn.Linear(48, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.block(self.embed(tokens)).transpose(1, 2)
        return self.last(torch.cat([torch.relu(conv(x)).amax(2) for conv in self.convs], 1))


class TwoInputs(nn.Module):
    """An image and a vector of readings, joined by Concat before the last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.readings = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.last = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, image: torch.Tensor, readings: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.image(image), self.readings(readings)], 1))


class Siamese(nn.Module):
    """Two images through one network; their features' cosine (Bertinetto et al. 2016 in kind)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
        )
        self.embed = nn.Linear(32, 16)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        a, b = (F.normalize(self.embed(self.features(image))) for image in (left, right))
        return (a * b).sum(1)


def video() -> nn.Module:
    """3-d convolutions over 8 frames (Tran et al. 2015)."""
    layers: list[nn.Module] = []
    channels = 3
    for width, pool in ((16, (1, 2, 2)), (32, (2, 2, 2)), (48, (2, 2, 2))):
        layers += [nn.Conv3d(channels, width, 3, padding=1, bias=False), nn.BatchNorm3d(width), nn.ReLU()]
        layers.append(nn.MaxPool3d(pool, pool))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(1), nn.Linear(channels, CLASSES))


VIT = "Dosovitskiy et al. 2021"
ZOO.image("vit", VIT, lambda: Vit(32, 8, 48, 3, "out"), size=32)
ZOO.image("vit_fused", VIT, lambda: Vit(32, 8, 48, 3, "fused"), size=32)
ZOO.enter("keyword_transformer", "Berg et al. 2021", KeywordTransformer, (49, 40), kinds=("features",))
ZOO.image("convnext", "Liu et al. 2022", convnext)
ZOO.image("mixer", "Tolstikhin et al. 2021", Mixer, size=32)
ZOO.enter("text_classifier", "Kim 2014", TextClassifier, (24,), kinds=("tokens",))
ZOO.enter("two_inputs", "an image and readings", TwoInputs, (3, 32, 32), (8,), kinds=("image", "state"))
ZOO.enter("siamese", "Bertinetto et al. 2016", Siamese, (3, 32, 32), (3, 32, 32), kinds=("image",))
ZOO.enter("video", "Tran et al. 2015", video, (3, 8, 32, 32), kinds=("image",))
