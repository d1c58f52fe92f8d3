"""TCN, Conformer, Conv-TasNet: longer stretches of sound and of sensors' readings."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from zoo_networks.audio import WORDS
from zoo_networks.parts import ZOO, Residual


class CausalBlock(nn.Module):
    """Dilated convolutions padded on both sides, what is to come cut off; a skip (Bai et al. 2018)."""

    def __init__(self, c_in: int, c_out: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        convs = [nn.Conv1d(c, c_out, 3, padding=self.cut, dilation=dilation) for c in (c_in, c_out)]
        self.convs = nn.ModuleList(weight_norm(conv) for conv in convs)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv1d(c_in, c_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for conv in self.convs:
            y = F.relu(conv(y)[:, :, : -self.cut])
        return F.relu(y + self.skip(x))


class Tcn(nn.Module):
    """Three blocks, and a class from the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(CausalBlock(6, 16, 1), CausalBlock(16, 16, 2), CausalBlock(16, 16, 4))
        self.last = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.blocks(x)[:, :, -1])


class RelativeAttention(nn.Module):
    """Scores by content and by distance, the latter shifted into place (Dai et al. 2019)."""

    def __init__(self, width: int, steps: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.project = (nn.Linear(width, width) for _ in range(4))
        self.distance = nn.Linear(width, width, bias=False)
        self.u, self.w = (nn.Parameter(torch.randn(heads, width // heads) * 0.3) for _ in range(2))
        self.register_buffer("distances", torch.randn(1, 2 * steps - 1, width) * 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, T, C = x.shape

        def by_heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(y.shape[0], -1, self.heads, C // self.heads)

        q, distances = by_heads(self.q(x)), by_heads(self.distance(self.distances)).transpose(1, 2)
        k, v = by_heads(self.k(x)).transpose(1, 2), by_heads(self.v(x)).transpose(1, 2)
        far = (q + self.w).transpose(1, 2) @ distances.transpose(-2, -1)
        far = F.pad(far, (1, 0)).view(N, self.heads, 2 * T, T)[:, :, 1:].reshape(N, self.heads, T, 2 * T - 1)[..., :T]
        scores = ((q + self.u).transpose(1, 2) @ k.transpose(-2, -1) + far) / math.sqrt(C // self.heads)
        return self.project((scores.softmax(-1) @ v).transpose(1, 2).reshape(N, T, C))


class ConvolutionModule(nn.Module):
    """A gate, a depthwise convolution over time with BatchNormalization, SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.wide, self.thin = (
            nn.LayerNorm(width),
            nn.Conv1d(width, 2 * width, 1),
            nn.Conv1d(width, width, 1),
        )
        depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm1d(width), nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.glu(self.wide(self.norm(x).transpose(1, 2)), 1)
        return self.thin(self.depthwise(y)).transpose(1, 2)


class Conformer(nn.Module):
    """Features halved in time; one block: half a perceptron, attention, convolution, half a perceptron."""

    def __init__(self, width: int = 32, steps: int = 24) -> None:
        super().__init__()

        def perceptron() -> nn.Module:
            wide = [nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)]
            return nn.Sequential(nn.LayerNorm(width), *wide)

        self.halve, self.enter = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU()), nn.Linear(8 * 20, width)
        self.before, self.behind = perceptron(), perceptron()
        self.norm, self.attend = nn.LayerNorm(width), RelativeAttention(width, steps)
        self.convolve = ConvolutionModule(width)
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, WORDS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.halve(x.unsqueeze(1))
        N, C, T, B = y.shape
        x = self.enter(y.transpose(1, 2).reshape(N, T, C * B))
        x = x + 0.5 * self.before(x)
        x = x + self.attend(self.norm(x))
        x = x + self.convolve(x)
        return self.last(x + 0.5 * self.behind(x)).log_softmax(-1)


class GlobalNorm(nn.Module):
    """Of channels and time together, spelled out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(1, channels, 1)), nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True).mean(2, keepdim=True)
        variance = torch.pow(x - mean, 2).mean(1, keepdim=True).mean(2, keepdim=True)
        return self.gamma * (x - mean) / torch.pow(variance + 1e-8, 0.5) + self.beta


class TasNet(nn.Module):
    """A learned filter bank, masks for two voices from dilated convolutions, and the bank's inverse (Luo 2019)."""

    def __init__(self, bank: int = 32, channels: int = 16, wide: int = 24) -> None:
        super().__init__()

        def block(dilation: int) -> nn.Module:
            depthwise = nn.Conv1d(wide, wide, 3, padding=dilation, dilation=dilation, groups=wide)
            enter = [nn.Conv1d(channels, wide, 1), nn.PReLU(), GlobalNorm(wide)]
            return Residual(
                nn.Sequential(*enter, depthwise, nn.PReLU(), GlobalNorm(wide), nn.Conv1d(wide, channels, 1))
            )

        self.bank = bank
        self.encode = nn.Sequential(nn.Conv1d(1, bank, 16, 8, bias=False), nn.ReLU())
        self.separate = nn.Sequential(
            GlobalNorm(bank), nn.Conv1d(bank, channels, 1), block(1), block(2), block(4),
            nn.Conv1d(channels, 2 * bank, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.decode = nn.ConvTranspose1d(bank, 1, 16, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.encode(x)
        masks = self.separate(y).view(x.shape[0], 2, self.bank, -1)
        parts = masks * y.unsqueeze(1)
        return self.decode(parts.reshape(-1, self.bank, y.shape[-1])).view(x.shape[0], 2, -1)


ZOO.enter("tcn", "Bai et al. 2018", Tcn, (6, 64), kinds=("features",))
ZOO.enter("conformer", "Gulati et al. 2020", Conformer, (48, 40), kinds=("features",))
ZOO.enter("conv_tasnet", "Luo and Mesgarani 2019", TasNet, (1, 512), kinds=("signal",))
