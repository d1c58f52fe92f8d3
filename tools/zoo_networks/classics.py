"""VGG-16bn, SqueezeNet, Inception-v3 and DenseNet-161, narrower than published."""

import torch
from torch import nn
from torch.nn import functional as F

from zoo_networks.parts import CLASSES, ZOO, Branches, Residual, conv_bn, head


def vgg16(width: int) -> nn.Module:
    """With BatchNormalization, a pool to a fixed size, and a classifier of three linear layers with Dropout."""
    layers: list[nn.Module] = []
    channels = 3
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        c_out = width * min(2**stage, 8)
        for _ in range(count):
            layers += [nn.Conv2d(channels, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
            channels = c_out
        layers.append(nn.MaxPool2d(2, 2))
    hidden = 8 * channels
    classifier = [
        *(nn.Linear(channels * 4, hidden), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(hidden, hidden), nn.ReLU(True), nn.Dropout(), nn.Linear(hidden, CLASSES)),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(1), *classifier)


def fire(c_in: int, squeezed: int, expanded: int) -> nn.Module:
    """1x1, then 1x1 beside 3x3; none has BatchNormalization."""
    one = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU(True))
    three = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU(True))
    return nn.Sequential(nn.Conv2d(c_in, squeezed, 1), nn.ReLU(True), Branches(one, three))


def squeezenet() -> nn.Module:
    """Version 1.1: pools round their size up, the classifier is a convolution."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    features = [
        *(nn.Conv2d(3, 32, 3, 2), nn.ReLU(True), pool, fire(32, 8, 32), fire(64, 8, 32), pool),
        *(fire(64, 16, 64), fire(128, 16, 64), pool, fire(128, 24, 96), fire(192, 24, 96), fire(192, 32, 128)),
    ]
    classifier = [nn.Dropout(), nn.Conv2d(256, CLASSES, 1), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
    return nn.Sequential(*features, *classifier)


def _chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _pooled(layer: nn.Module) -> nn.Module:
    """Behind an average that counts what is padded, as Inception's does."""
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), layer)


def inception(width: int) -> nn.Module:
    """Version 3; `width` of the published channels' 32nds: factorized 7x7, two reductions, split 3x3 at the end."""
    w = width

    def module_a(c: int, pooled: int) -> nn.Module:
        five = _chain(conv_bn(c, 6 * w // 4, 1), conv_bn(6 * w // 4, 2 * w, 5))
        three = _chain(conv_bn(c, 2 * w, 1), conv_bn(2 * w, 3 * w), conv_bn(3 * w, 3 * w))
        return Branches(conv_bn(c, 2 * w, 1), five, three, _pooled(conv_bn(c, pooled, 1)))

    def module_b(c: int) -> nn.Module:
        twice = _chain(conv_bn(c, 2 * w, 1), conv_bn(2 * w, 3 * w), conv_bn(3 * w, 3 * w, 3, 2, padding=0))
        return Branches(conv_bn(c, 12 * w, 3, 2, padding=0), twice, nn.MaxPool2d(3, 2))

    def module_c(c: int, m: int) -> nn.Module:
        seven = _chain(conv_bn(c, m, 1), conv_bn(m, m, (1, 7)), conv_bn(m, 6 * w, (7, 1)))
        twice = _chain(
            conv_bn(c, m, 1),
            *(conv_bn(m, m, (7, 1)), conv_bn(m, m, (1, 7)), conv_bn(m, m, (7, 1)), conv_bn(m, 6 * w, (1, 7))),
        )
        return Branches(conv_bn(c, 6 * w, 1), seven, twice, _pooled(conv_bn(c, 6 * w, 1)))

    def module_d(c: int) -> nn.Module:
        three = _chain(conv_bn(c, 6 * w, 1), conv_bn(6 * w, 10 * w, 3, 2, padding=0))
        seven = _chain(conv_bn(c, 6 * w, 1), conv_bn(6 * w, 6 * w, (1, 7)), conv_bn(6 * w, 6 * w, (7, 1)))
        return Branches(three, _chain(seven, conv_bn(6 * w, 6 * w, 3, 2, padding=0)), nn.MaxPool2d(3, 2))

    def module_e(c: int) -> nn.Module:
        def split(channels: int) -> nn.Module:
            return Branches(conv_bn(channels, 12 * w, (1, 3)), conv_bn(channels, 12 * w, (3, 1)))

        three = _chain(conv_bn(c, 12 * w, 1), split(12 * w))
        twice = _chain(conv_bn(c, 14 * w, 1), conv_bn(14 * w, 12 * w), split(12 * w))
        return Branches(conv_bn(c, 10 * w, 1), three, twice, _pooled(conv_bn(c, 6 * w, 1)))

    stem = [
        *(conv_bn(3, w, 3, 2, padding=0), conv_bn(w, w, 3, padding=0), conv_bn(w, 2 * w), nn.MaxPool2d(3, 2)),
        *(conv_bn(2 * w, 2 * w + w // 2, 1), conv_bn(2 * w + w // 2, 6 * w, 3, padding=0), nn.MaxPool2d(3, 2)),
    ]
    fine = [module_a(6 * w, w), module_a(8 * w, 2 * w), module_a(9 * w, 2 * w), module_b(9 * w)]
    middle = [module_c(24 * w, 4 * w), module_c(24 * w, 5 * w), module_c(24 * w, 5 * w), module_c(24 * w, 6 * w)]
    coarse = [module_d(24 * w), module_e(40 * w), module_e(64 * w)]
    return nn.Sequential(*stem, *fine, *middle, *coarse, head(64 * w, dropout=0.5))


class Dense(nn.Module):
    """Pre-activated 1x1 and 3x3; what they give stands behind what they read."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet(blocks: tuple[int, ...], growth: int) -> nn.Module:
    """Dense blocks with transitions that halve channels and size."""
    channels = 2 * growth
    layers: list[nn.Module] = [conv_bn(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, count in enumerate(blocks):
        for _ in range(count):
            layers.append(Dense(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if stage < len(blocks) - 1:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
            channels //= 2
    return nn.Sequential(*layers, head(channels))


def preactivated(blocks: tuple[int, ...], width: int) -> nn.Module:
    """ResNet-v2: BatchNormalization and ReLU stand before each convolution, nothing behind the sum."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    channels = width
    for stage, count in enumerate(blocks):
        c_out = width * 2**stage
        for index in range(count):
            stride = 2 if stage and not index else 1
            body = nn.Sequential(
                *(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, c_out, 3, stride, 1, bias=False)),
                *(nn.BatchNorm2d(c_out), nn.ReLU(), nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)),
            )
            skip = None if channels == c_out else nn.Conv2d(channels, c_out, 1, stride, bias=False)
            layers.append(Residual(body, skip))
            channels = c_out
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), head(channels))


ZOO.image("vgg16bn", "Simonyan and Zisserman 2015", lambda: vgg16(8))
ZOO.image("squeezenet", "Iandola et al. 2016, version 1.1", squeezenet)
ZOO.image("inception_v3", "Szegedy et al. 2016", lambda: inception(4), size=96)
ZOO.image("densenet161", "Huang et al. 2017", lambda: densenet((6, 12, 36, 24), 4))
ZOO.image("resnet_v2", "He et al. 2016b", lambda: preactivated((2, 2, 2), 16), size=32)
