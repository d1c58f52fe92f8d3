"""MLPerf Tiny's four networks (Banbury et al. 2021) as they are published, and a network of a robot's joints."""

import torch
from torch import nn

from zoo_networks.mobile import mobilenet_v1
from zoo_networks.parts import CLASSES, ZOO, Residual, conv_bn, head
from zoo_networks.resnets import basic


def resnet8() -> nn.Module:
    """Three residual blocks behind a 3x3 stem; the skips' projections have no BatchNormalization."""

    def block(c_in: int, c_out: int) -> nn.Module:
        body = nn.Sequential(conv_bn(c_in, c_out, 3, 2), conv_bn(c_out, c_out, act=None))
        return Residual(body, nn.Conv2d(c_in, c_out, 1, 2), nn.ReLU)

    return nn.Sequential(conv_bn(3, 16), basic(16, 16, 1), block(16, 32), block(32, 64), head(64))


def ds_cnn() -> nn.Module:
    """Keyword spotting on 49 x 10 MFCC: a 10x4 stem and four depthwise separable layers."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, (10, 4), 2, (5, 1)), nn.BatchNorm2d(64), nn.ReLU(), nn.Dropout(0.2)]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.BatchNorm2d(64), nn.ReLU()]
        layers += [nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU()]
    tail = [nn.Dropout(0.4), nn.AvgPool2d((25, 5)), nn.Flatten(1), nn.Linear(64, 12), nn.Softmax(-1)]
    return nn.Sequential(*layers, *tail)


def autoencoder() -> nn.Module:
    """Anomaly detection: Dense, BatchNormalization, ReLU through a bottleneck of 8; it rebuilds its input."""
    layers: list[nn.Module] = []
    features = 640
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        layers += [nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 640))


class Policy(nn.Module):
    """Joint positions to actions: observations are normalized in the graph, actions bounded by tanh."""

    def __init__(self, observed: int = 48, actions: int = 12) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, observed))
        self.register_buffer("deviation", torch.linspace(0.5, 2, observed))
        layers: list[nn.Module] = [nn.Linear(observed, 128), nn.ELU(), nn.Linear(128, 64), nn.ELU()]
        self.network = nn.Sequential(*layers, nn.Linear(64, 32), nn.ELU(), nn.Linear(32, actions))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        normal = torch.clamp((observation - self.mean) / (self.deviation + 1e-5), -5, 5)
        return torch.tanh(self.network(normal))


class DuelingQ(nn.Module):
    """Deep Q-learning from four grey frames in [0, 255]; value and advantages (Wang et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 1)),
            *(nn.ReLU(), nn.Flatten(1)),
        )
        self.value = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 1))
        self.advantage = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 6))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        features = self.features(frames / 255.0)
        advantage = self.advantage(features)
        return self.value(features) + advantage - advantage.mean(1, keepdim=True)


MLPERF = "MLPerf Tiny"
ZOO.image("mlperf_resnet8", MLPERF, resnet8, size=32)
ZOO.enter("mlperf_ds_cnn", MLPERF, ds_cnn, (1, 49, 10), kinds=("features",))
ZOO.image("mlperf_mobilenet_vww", MLPERF, lambda: mobilenet_v1(0.25, classes=2), size=96)
ZOO.enter("mlperf_autoencoder", MLPERF, autoencoder, (640,), kinds=("features",))
ZOO.enter("policy", "rsl_rl's actor", Policy, (48,), kinds=("state",))
ZOO.enter("dueling_q", "Wang et al. 2016", DuelingQ, (4, 64, 64), kinds=("bytes",))
ZOO.enter("sensor_mlp", "scikit-learn's MLP", lambda: nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 32),
    nn.Tanh(), nn.Linear(32, CLASSES), nn.Softmax(1)), (24,), kinds=("state",))  # fmt: skip
