"""Networks of sound and sensors: 1-d convolutions, gates, and recurrence."""

import torch
from torch import nn
from torch.nn import functional as F

from zoo_networks.mobile import mobilenet_v1
from zoo_networks.parts import ZOO, Activation, Residual

WORDS = 12


def conv1d_bn(
    c_in: int, c_out: int, kernel: int, stride: int = 1, *, groups: int = 1, act: Activation | None = nn.ReLU
) -> nn.Sequential:
    """As conv_bn, along time."""
    conv = nn.Conv1d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(c_out), *([] if act is None else [act()]))


def m5() -> nn.Module:
    """A waveform's class: a wide first kernel, pools between (Dai et al. 2017)."""
    layers: list[nn.Module] = [nn.Conv1d(1, 32, 80, 4), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(4)]
    for c_in, c_out in ((32, 32), (32, 64), (64, 64)):
        layers += [nn.Conv1d(c_in, c_out, 3), nn.BatchNorm1d(c_out), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.Linear(64, WORDS), nn.LogSoftmax(-1))


def tc_resnet() -> nn.Module:
    """MFCC as channels over time, residual blocks of kernel 9 (Choi et al. 2019)."""
    layers: list[nn.Module] = [nn.Conv1d(40, 16, 3, padding=1, bias=False)]
    channels = 16
    for c_out in (24, 32, 48):
        body = nn.Sequential(conv1d_bn(channels, c_out, 9, 2), conv1d_bn(c_out, c_out, 9, act=None))
        layers.append(Residual(body, conv1d_bn(channels, c_out, 1, 2), nn.ReLU))
        channels = c_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Dropout(), nn.Conv1d(48, WORDS, 1), nn.Flatten(1))


class WaveNet(nn.Module):
    """Causal dilated convolutions, gated by Tanh times Sigmoid, with residual and skip sums (van den Oord 2016)."""

    def __init__(self, channels: int = 16, layers: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, channels, 1)
        dilations = [2**layer for layer in range(layers)]
        self.pads = dilations
        self.wide = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 2, dilation=d) for d in dilations)
        self.thin = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in dilations)
        self.skips = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 1) for _ in dilations)
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(2 * channels, 32, 1), nn.ReLU(), nn.Conv1d(32, 64, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        total: torch.Tensor | float = 0.0
        for pad, wide, thin, skip in zip(self.pads, self.wide, self.thin, self.skips, strict=True):
            content, gate = wide(F.pad(x, (pad, 0))).chunk(2, 1)
            gated = torch.tanh(content) * torch.sigmoid(gate)
            total = skip(gated) + total if isinstance(total, torch.Tensor) else skip(gated)
            x = x + thin(gated)
        return self.last(total)


class Denoiser(nn.Module):
    """Strided convolutions and their transposes with GLU and skips, along time (Defossez et al. 2020)."""

    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        encoders, decoders = [], []
        c_in, c_out = 1, width
        for level in range(depth):
            encoders.append(
                nn.Sequential(nn.Conv1d(c_in, c_out, 8, 4, 2), nn.ReLU(), nn.Conv1d(c_out, 2 * c_out, 1), nn.GLU(1))
            )
            last: list[nn.Module] = [nn.ReLU()] if level else []
            up = nn.ConvTranspose1d(c_out, c_in, 8, 4, 2)
            decoders.insert(0, nn.Sequential(nn.Conv1d(c_out, 2 * c_out, 1), nn.GLU(1), up, *last))
            c_in, c_out = c_out, 2 * c_out
        self.encoders, self.decoders = nn.ModuleList(encoders), nn.ModuleList(decoders)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            x = decoder(x + skip)
        return x


class XVector(nn.Module):
    """Dilated convolutions over frames; mean and deviation over time; an embedding of length one (Snyder 2018)."""

    def __init__(self) -> None:
        super().__init__()
        rows = ((24, 48, 5, 1), (48, 48, 3, 2), (48, 48, 3, 3), (48, 96, 1, 1))
        self.frames = nn.Sequential(
            *(nn.Sequential(nn.Conv1d(a, b, k, dilation=d), nn.ReLU(), nn.BatchNorm1d(b)) for a, b, k, d in rows)
        )
        self.embed = nn.Linear(192, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = self.frames(x)
        deviation = (frames.var(-1, unbiased=False) + 1e-5).sqrt()
        return F.normalize(self.embed(torch.cat([frames.mean(-1), deviation], 1)))


class Recurrent(nn.Module):
    """Features over time through a recurrent layer, and a word from the last step."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(features, WORDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(x)[0][:, -1])


class Streaming(nn.Module):
    """One frame at a time: the state comes in and goes out; a gain for each band (as denoisers have it)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.layer = nn.Linear(40, 48), nn.GRU(48, 48, batch_first=True)
        self.gains = nn.Linear(48, 40)

    def forward(self, frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, state = self.layer(torch.relu(self.enter(frame)), state.transpose(0, 1))
        return frame * torch.sigmoid(self.gains(y)), state.transpose(0, 1)


class Crnn(nn.Module):
    """Text: convolutions squeeze the height away, a bidirectional LSTM reads along the width (Shi et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU()),
            *(nn.MaxPool2d((2, 2), (2, 1), (0, 1)), nn.Conv2d(32, 48, 3, 1, 1, bias=False), nn.BatchNorm2d(48)),
            *(nn.ReLU(), nn.MaxPool2d((2, 2), (2, 1), (0, 1)), nn.Conv2d(48, 48, 3, 1, 1), nn.ReLU()),
            *(nn.MaxPool2d((2, 2), (2, 1), (0, 1)), nn.Conv2d(48, 48, 2), nn.ReLU()),
        )
        self.read, self.last = nn.LSTM(48, 32, bidirectional=True, batch_first=True), nn.Linear(64, 37)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = self.features(x).squeeze(2).permute(0, 2, 1)
        return self.last(self.read(columns)[0]).log_softmax(2)


ZOO.enter("m5", "Dai et al. 2017", m5, (1, 2000), kinds=("signal",))
ZOO.enter("tc_resnet", "Choi et al. 2019", tc_resnet, (40, 98), kinds=("features",))
ZOO.enter("wavenet", "van den Oord et al. 2016", WaveNet, (1, 256), kinds=("signal",))
ZOO.enter("denoiser", "Defossez et al. 2020", Denoiser, (1, 1024), kinds=("signal",))
ZOO.enter("x_vector", "Snyder et al. 2018", XVector, (24, 60), kinds=("features",))
ZOO.enter(
    "gru_words",
    "Arik et al. 2017",
    lambda: Recurrent(nn.GRU(20, 48, batch_first=True), 48),
    (49, 20),
    kinds=("features",),
)
ZOO.enter(
    "lstm_words",
    "Arik et al. 2017",
    lambda: Recurrent(nn.LSTM(20, 48, batch_first=True), 48),
    (49, 20),
    kinds=("features",),
)
ZOO.enter("gru_stream", "Valin 2018", Streaming, (1, 40), (1, 48), kinds=("features", "state"))
ZOO.enter("crnn", "Shi et al. 2015", Crnn, (1, 32, 64), kinds=("pixels",))
ZOO.enter(
    "yamnet",
    "YAMNet on a log-mel patch",
    lambda: nn.Sequential(nn.Conv2d(1, 3, 1), mobilenet_v1(0.25), nn.Sigmoid()),
    (1, 96, 64),
    kinds=("features",),
)
