"""MobileNet v1 to v3, EfficientNet-B0 and -lite0, ShuffleNetV2, GhostNet: what runs on phones and smaller."""

import torch
from torch import nn

from zoo_networks.parts import CLASSES, ZOO, Activation, Residual, SqueezeExcite, conv_bn, eighths, head


def mobilenet_v1(width: float, *, classes: int = CLASSES) -> nn.Module:
    """Depthwise 3x3 and pointwise 1x1, each with BatchNormalization and ReLU."""
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    channels = eighths(32 * width)
    layers: list[nn.Module] = [conv_bn(3, channels, 3, 2)]
    for published, stride in rows:
        c_out = eighths(published * width)
        layers += [conv_bn(channels, channels, 3, stride, groups=channels), conv_bn(channels, c_out, 1)]
        channels = c_out
    return nn.Sequential(*layers, head(channels, classes))


def inverted(
    c_in: int, inside: int, c_out: int, kernel: int, stride: int, act: Activation, excite: nn.Module | None = None
) -> nn.Module:
    """Widen, depthwise, excite, narrow without activation; a skip where the shape stays."""
    widen = [] if inside == c_in else [conv_bn(c_in, inside, 1, act=act)]
    body = nn.Sequential(
        *widen,
        conv_bn(inside, inside, kernel, stride, groups=inside, act=act),
        *([] if excite is None else [excite]),
        conv_bn(inside, c_out, 1, act=None),
    )
    return Residual(body) if stride == 1 and c_in == c_out else body


def mobilenet_v2(width: float) -> nn.Module:
    """ReLU6 throughout; rows are expansion, channels, repetitions, stride."""
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    channels = eighths(32 * width)
    layers: list[nn.Module] = [conv_bn(3, channels, 3, 2, act=nn.ReLU6)]
    for expansion, published, count, stride in rows:
        c_out = eighths(published * width)
        for index in range(count):
            layers.append(inverted(channels, expansion * channels, c_out, 3, 1 if index else stride, nn.ReLU6))
            channels = c_out
    layers.append(conv_bn(channels, 128, 1, act=nn.ReLU6))
    return nn.Sequential(*layers, head(128, dropout=0.2))


V3_SMALL = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1), (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip
V3_LARGE = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip
"""Kernel, inside, channels, whether excited, whether hard-swish (else ReLU), stride: the paper's Tables 1 and 2."""


def mobilenet_v3(rows: tuple[tuple[int, int, int, bool, bool, int], ...], width: float) -> nn.Module:
    """Squeeze and excitation with a hard sigmoid; hard-swish in the deeper half and between the last two layers."""
    channels = eighths(16 * width)
    layers: list[nn.Module] = [conv_bn(3, channels, 3, 2, act=nn.Hardswish)]
    for kernel, published, out, excited, swish, stride in rows:
        inside, c_out = eighths(published * width), eighths(out * width)
        excite = SqueezeExcite(inside, eighths(inside / 4), gate=nn.Hardsigmoid) if excited else None
        act: Activation = nn.Hardswish if swish else nn.ReLU
        layers.append(inverted(channels, inside, c_out, kernel, stride, act, excite))
        channels = c_out
    layers.append(conv_bn(channels, 6 * channels, 1, act=nn.Hardswish))
    tail = [nn.Linear(6 * channels, 128), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(128, CLASSES)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), *tail)


def efficientnet(width: float, *, lite: bool) -> nn.Module:
    """B0's rows; lite has ReLU6 and no squeeze and excitation."""
    rows = (
        (1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2),
        (6, 320, 1, 3, 1),
    )  # fmt: skip
    act: Activation = nn.ReLU6 if lite else nn.SiLU
    channels = eighths(32 * width)
    layers: list[nn.Module] = [conv_bn(3, channels, 3, 2, act=act)]
    for expansion, published, count, kernel, stride in rows:
        c_out = eighths(published * width)
        for index in range(count):
            inside = expansion * channels
            excite = None if lite else SqueezeExcite(inside, max(1, channels // 4), act=nn.SiLU)
            layers.append(inverted(channels, inside, c_out, kernel, 1 if index else stride, act, excite))
            channels = c_out
    layers.append(conv_bn(channels, 160, 1, act=act))
    return nn.Sequential(*layers, head(160, dropout=0.2))


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channels dealt out anew over the groups."""
    N, C, H, W = x.shape
    return x.view(N, groups, C // groups, H, W).transpose(1, 2).reshape(N, C, H, W)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, or both halves are made from all with stride 2; then they are shuffled."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        half = c_out // 2
        start = c_in if stride == 2 else half
        self.left = (
            nn.Sequential(conv_bn(c_in, c_in, 3, 2, groups=c_in, act=None), conv_bn(c_in, half, 1))
            if stride == 2
            else None
        )
        depthwise = conv_bn(half, half, 3, stride, groups=half, act=None)
        self.right = nn.Sequential(conv_bn(start, half, 1), depthwise, conv_bn(half, half, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1) if self.left is None else (self.left(x), x)
        return shuffle(torch.cat([left, self.right(right)], 1), 2)


def shufflenet_v2() -> nn.Module:
    """0.5x."""
    layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for c_out, count in ((48, 4), (96, 8), (192, 4)):
        for index in range(count):
            layers.append(ShuffleUnit(channels, c_out, 1 if index else 2))
            channels = c_out
    return nn.Sequential(*layers, conv_bn(channels, 256, 1), head(256))


class Ghost(nn.Module):
    """Half of the features by a 1x1 convolution, the other half cheaply from them (Han et al. 2020)."""

    def __init__(self, c_in: int, c_out: int, act: Activation | None) -> None:
        super().__init__()
        half = -(-c_out // 2)
        self.c_out = c_out
        self.primary, self.cheap = conv_bn(c_in, half, 1, act=act), conv_bn(half, half, 3, groups=half, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], 1)[:, : self.c_out]


def ghost_bottleneck(c_in: int, inside: int, c_out: int, kernel: int, stride: int, excited: bool) -> nn.Module:
    """Two ghost modules, a depthwise convolution between them where there is a stride."""
    down = [conv_bn(inside, inside, kernel, stride, groups=inside, act=None)] if stride > 1 else []
    excite = [SqueezeExcite(inside, eighths(inside / 4), gate=nn.Hardsigmoid)] if excited else []
    body = nn.Sequential(Ghost(c_in, inside, nn.ReLU), *down, *excite, Ghost(inside, c_out, None))
    if stride == 1 and c_in == c_out:
        return Residual(body)
    depthwise = conv_bn(c_in, c_in, kernel, stride, groups=c_in, act=None)
    return Residual(body, nn.Sequential(depthwise, conv_bn(c_in, c_out, 1, act=None)))


def ghostnet() -> nn.Module:
    """Rows are kernel, inside, channels, whether excited, stride."""
    rows = (
        (3, 16, 16, False, 1), (3, 24, 24, False, 2), (5, 40, 40, True, 2), (3, 120, 40, False, 2),
        (3, 100, 40, False, 1), (3, 240, 56, True, 1), (5, 336, 80, True, 2), (5, 480, 80, True, 1),
    )  # fmt: skip
    channels = 16
    layers: list[nn.Module] = [conv_bn(3, channels, 3, 2)]
    for kernel, inside, c_out, excited, stride in rows:
        layers.append(ghost_bottleneck(channels, inside, c_out, kernel, stride, excited))
        channels = c_out
    features = [conv_bn(channels, 240, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(240, 128, 1), nn.ReLU(), nn.Flatten(1)]
    return nn.Sequential(*layers, *features, nn.Dropout(0.2), nn.Linear(128, CLASSES))


ZOO.image("mobilenet_v1", "Howard et al. 2017", lambda: mobilenet_v1(0.25))
ZOO.image("mobilenet_v2", "Sandler et al. 2018", lambda: mobilenet_v2(0.35))
ZOO.image("mobilenet_v3_small", "Howard et al. 2019", lambda: mobilenet_v3(V3_SMALL, 0.5))
ZOO.image("mobilenet_v3_large", "Howard et al. 2019", lambda: mobilenet_v3(V3_LARGE, 0.35))
ZOO.image("efficientnet_b0", "Tan and Le 2019", lambda: efficientnet(0.25, lite=False))
ZOO.image("efficientnet_lite0", "Liu 2020", lambda: efficientnet(0.25, lite=True))
ZOO.image("shufflenet_v2", "Ma et al. 2018, 0.5x", shufflenet_v2)
ZOO.image("ghostnet", "Han et al. 2020", ghostnet)
