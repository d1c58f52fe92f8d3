"""Kinds unlike the others: weighted fusion, attention of channels, a state space, a recommender, a forecaster."""

import torch
from torch import nn
from torch.nn import functional as F

from zoo_networks.parts import CLASSES, ZOO, conv_bn


class Fusion(nn.Module):
    """A sum of levels, weighed by learned numbers that are positive and made to sum to 1 ("fast normalized")."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.rand(count) + 0.3)
        along = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        self.conv = nn.Sequential(along, nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))

    def forward(self, *levels: torch.Tensor) -> torch.Tensor:
        weights = F.relu(self.weights)
        weights = weights / (weights.sum() + 1e-4)
        return self.conv(F.silu(sum(weights[i] * level for i, level in enumerate(levels))))


class BiFpn(nn.Module):
    """Three levels, once down and once up, and a head for all (EfficientDet)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2, act=nn.SiLU), conv_bn(16, width, 3, 2, act=nn.SiLU))
        self.down = nn.ModuleList(conv_bn(width, width, 3, 2, act=nn.SiLU) for _ in range(3))
        self.fuse = nn.ModuleList(Fusion(count, width) for count in (2, 2, 3, 2))
        self.head = nn.Sequential(conv_bn(width, width, act=nn.SiLU), nn.Conv2d(width, 9 * 4, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p3 = self.down[0](self.stem(x))
        p4 = self.down[1](p3)
        p5 = self.down[2](p4)
        middle = self.fuse[0](p4, F.interpolate(p5, scale_factor=2.0))
        fine = self.fuse[1](p3, F.interpolate(middle, scale_factor=2.0))
        middle = self.fuse[2](p4, middle, F.max_pool2d(fine, 3, 2, 1))
        coarse = self.fuse[3](p5, F.max_pool2d(middle, 3, 2, 1))
        boxes = [self.head(level).permute(0, 2, 3, 1).reshape(len(x), -1, 4) for level in (fine, middle, coarse)]
        return torch.cat(boxes, 1)


class ChannelNorm(nn.Module):
    """LayerNormalization of each pixel, spelled out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        y = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight.view(1, -1, 1, 1) * y + self.bias.view(1, -1, 1, 1)


class ChannelAttention(nn.Module):
    """Channels attend to channels, all vectors of length 1; then a gated convolution."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.temperature = heads, nn.Parameter(torch.rand(heads, 1, 1) + 0.5)
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.qkv = nn.Sequential(
            nn.Conv2d(width, 3 * width, 1, bias=False),
            nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False),
        )
        self.project = nn.Conv2d(width, width, 1, bias=False)
        self.enter = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width, bias=False),
        )
        self.leave = nn.Conv2d(2 * width, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, C, H, W = x.shape
        parts = self.qkv(self.norm1(x)).chunk(3, 1)
        q, k, v = (part.reshape(N, self.heads, C // self.heads, H * W) for part in parts)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2) * self.temperature
        x = x + self.project((scores.softmax(-1) @ v).reshape(N, C, H, W))
        gate, y = self.enter(self.norm2(x)).chunk(2, 1)
        return x + self.leave(F.gelu(gate) * y)


class Restormer(nn.Module):
    """Two blocks at one size, and what they add to the image."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.blocks = nn.Sequential(ChannelAttention(width), ChannelAttention(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.blocks(self.enter(x))) + x


class StateSpace(nn.Module):
    """A selective state space whose steps are written out, as exporters do (Mamba)."""

    def __init__(self, width: int = 16, states: int = 4) -> None:
        super().__init__()
        inner = 2 * width
        self.states, self.embed, self.enter = states, nn.Linear(8, width), nn.Linear(width, 2 * inner)
        self.conv = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.choose, self.step = nn.Linear(inner, 2 * states + 2), nn.Linear(2, inner)
        self.decay = nn.Parameter(torch.log(torch.arange(1, states + 1).float()).repeat(inner, 1))
        self.direct, self.gain = nn.Parameter(torch.ones(inner)), nn.Parameter(torch.ones(width))
        self.leave, self.last = nn.Linear(inner, width), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.embed(x)
        normed = skip * torch.rsqrt(skip.pow(2).mean(-1, keepdim=True) + 1e-5) * self.gain
        x, gate = self.enter(normed).chunk(2, -1)
        T = x.shape[1]
        x = F.silu(self.conv(x.transpose(1, 2))[..., :T].transpose(1, 2))
        step, write, read = self.choose(x).split([2, self.states, self.states], -1)
        step = F.softplus(self.step(step)).unsqueeze(-1)
        keep = torch.exp(step * -torch.exp(self.decay))
        new = step * write.unsqueeze(2) * x.unsqueeze(-1)
        state, given = torch.zeros_like(new[:, 0]), []
        for t in range(T):
            state = keep[:, t] * state + new[:, t]
            given.append((state * read[:, t].unsqueeze(1)).sum(-1))
        y = torch.stack(given, 1) + x * self.direct
        return self.last(self.leave(y * F.silu(gate)) + skip)


class Recommender(nn.Module):
    """Products of all pairs of embeddings and of what dense features become (DLRM)."""

    def __init__(self, fields: int = 3, width: int = 16) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(200, width) for _ in range(fields))
        self.bottom = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, width), nn.ReLU())
        first, second = torch.tril_indices(fields + 1, fields + 1, -1)
        self.register_buffer("first", first)
        self.register_buffer("second", second)
        self.top = nn.Sequential(nn.Linear(width + len(first), 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        x = self.bottom(dense)
        rows = torch.stack([x, *(table(chosen[:, i]) for i, table in enumerate(self.tables))], 1)
        products = torch.bmm(rows, rows.transpose(1, 2))[:, self.first, self.second]
        return torch.sigmoid(self.top(torch.cat([x, products], 1)))


class PatchForecaster(nn.Module):
    """Each series by itself, its mean and deviation taken out and put back, patches as tokens (PatchTST)."""

    def __init__(self, width: int = 24, patch: int = 8, stride: int = 4, length: int = 48) -> None:
        super().__init__()
        self.patch, self.stride, self.count = patch, stride, (length - patch) // stride + 1
        self.embed, self.place = nn.Linear(patch, width), nn.Parameter(torch.randn(1, self.count, width) * 0.1)
        self.encode = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.last = nn.Linear(self.count * width, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        deviation = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
        patches = ((x - mean) / deviation).transpose(1, 2).unfold(-1, self.patch, self.stride)
        N, C = x.shape[0], x.shape[2]
        y = self.encode(self.embed(patches.reshape(N * C, self.count, self.patch)) + self.place)
        return self.last(y.reshape(N, C, -1)).transpose(1, 2) * deviation + mean


ZOO.image("bifpn", "Tan et al. 2020", BiFpn, size=128)
ZOO.enter("restormer", "Zamir et al. 2022", Restormer, (3, 24, 24), kinds=("pixels",))
ZOO.enter("state_space", "Gu and Dao 2023", StateSpace, (12, 8), kinds=("features",))
ZOO.enter("recommender", "Naumov et al. 2019", Recommender, (13,), (3,), kinds=("state", "tokens"))
ZOO.enter("patch_forecaster", "Nie et al. 2023", PatchForecaster, (48, 5), kinds=("features",))
