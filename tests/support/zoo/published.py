"""Published residual networks in little (narrow, for small images), named as torchvision does, and both exporters."""

import io
from collections.abc import Sequence

import onnx
import torch
from torch import nn

from qpipe.ir.files.quiet import quiet
from support.networks import load

SHAPE = (3, 32, 32)


def conv(fan_in: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(fan_in, out, kernel, stride, kernel // 2, groups=groups, bias=False)


class Basic(nn.Module):
    expansion = 1

    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(fan_in, width, 3, stride), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = projection(fan_in, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1, self.bn1 = conv(fan_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, out, 1), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(fan_in, out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class PreActivation(nn.Module):
    """BatchNormalization and ReLU before each convolution, and nothing behind the sum."""

    expansion = 1

    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(fan_in), conv(fan_in, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.shortcut = None if stride == 1 and fan_in == width else conv(fan_in, width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = torch.relu(self.bn1(x))
        y = self.conv2(torch.relu(self.bn2(self.conv1(before))))
        return y + (x if self.shortcut is None else self.shortcut(before))


def projection(fan_in: int, out: int, stride: int) -> nn.Sequential | None:
    return None if stride == 1 and fan_in == out else nn.Sequential(conv(fan_in, out, 1, stride), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    def __init__(self, block: type[nn.Module], depths: Sequence[int], width: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, width, 7, 2), nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        fan_in = width
        for number, depth in enumerate(depths):
            out, blocks = width * 2**number, []
            for index in range(depth):
                blocks.append(block(fan_in, out, 2 if number and index == 0 else 1))
                fan_in = out * block.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.depth = len(depths)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(fan_in, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for number in range(self.depth):
            x = getattr(self, f"layer{number + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class InvertedResidual(nn.Module):
    def __init__(self, fan_in: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = fan_in * expansion
        layers = [] if expansion == 1 else [conv_norm(fan_in, wide, 1)]
        layers += [conv_norm(wide, wide, 3, stride, wide), conv(wide, out, 1), nn.BatchNorm2d(out)]
        self.conv = nn.Sequential(*layers)
        self.has_skip = stride == 1 and fan_in == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.has_skip else self.conv(x)


def conv_norm(fan_in: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(fan_in, out, kernel, stride, groups), nn.BatchNorm2d(out), nn.ReLU6(inplace=True))


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, Table 2, an eighth as wide and with fewer strides."""

    def __init__(self) -> None:
        super().__init__()
        stages = ((1, 2, 1, 1), (6, 3, 2, 1), (6, 4, 3, 2), (6, 8, 4, 2), (6, 12, 3, 1), (6, 20, 3, 2), (6, 40, 1, 1))
        features: list[nn.Module] = [conv_norm(3, 4, 3, 2)]
        fan_in = 4
        for expansion, out, depth, stride in stages:
            for index in range(depth):
                features.append(InvertedResidual(fan_in, out, stride if index == 0 else 1, expansion))
                fan_in = out
        self.features = nn.Sequential(*features, conv_norm(fan_in, 80, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(80, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def exported(module: nn.Module, *, dynamo: bool):
    """A normalized float model with statistics as if trained, BatchNormalization kept."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
    example = (torch.zeros(2, *SHAPE),)
    names = {"input_names": ["x"], "output_names": ["y"]}
    with quiet("torch.onnx"):
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(
                module.eval(), example, dynamo=True, optimize=False, dynamic_shapes=shapes, verbose=False, **names
            )
            proto = program.model_proto
        else:
            file = io.BytesIO()
            torch.onnx.export(
                module.eval(), example, file, dynamo=False, do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE, dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, **names,
            )  # fmt: skip
            proto = onnx.load_from_string(file.getvalue())
    return load(proto)
