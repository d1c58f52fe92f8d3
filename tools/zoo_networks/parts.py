"""What the networks of the zoo are made of, and the table that they stand in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import nn

Kind = Literal["image", "pixels", "bytes", "signal", "features", "state", "tokens"]
"""What an input holds: normalized images, images in [0, 1] and in [0, 255], waveforms, features over time, numbers,
token indices."""

Activation = Callable[[], nn.Module]


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    shapes: of each input without the batch. kinds: what each holds, as many as there are shapes; the first alone where
    all are alike. source: the paper or the repository that it follows.
    """

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[Kind, ...]
    source: str

    def kind(self, index: int) -> Kind:
        """What the input holds."""
        return self.kinds[min(index, len(self.kinds) - 1)]


@dataclass(frozen=True)
class Table:
    """Networks by name, as their files enter them."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def enter(
        self, name: str, source: str, make: Callable[[], nn.Module], *shapes: tuple[int, ...], kinds: tuple[Kind, ...]
    ) -> None:
        """Enter a network; the name must be new."""
        if name in self.entries:
            raise KeyError(name)
        self.entries[name] = Entry(make, shapes, kinds, source)

    def image(self, name: str, source: str, make: Callable[[], nn.Module], size: int = 64) -> None:
        """A network of one normalized colour image, size x size."""
        self.enter(name, source, make, (3, size, size), kinds=("image",))


ZOO: Final = Table()
CLASSES: Final = 10


def eighths(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and no more than a tenth below (the MobileNets' rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def conv_bn(
    c_in: int,
    c_out: int,
    kernel: int | tuple[int, int] = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    dilation: int = 1,
    act: Activation | None = nn.ReLU,
    padding: int | tuple[int, int] | None = None,
) -> nn.Sequential:
    """Conv without bias, BatchNormalization, activation; padded so that stride 1 keeps the size."""
    if padding is None:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (dilation * (sides[0] // 2), dilation * (sides[1] // 2))
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation=dilation, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


class SqueezeExcite(nn.Module):
    """Channels weighed by what their means say (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int, act: Activation = nn.ReLU, gate: Activation = nn.Sigmoid) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))


class Residual(nn.Module):
    """The body's result and the input, or what a projection makes of it; an activation behind, if any."""

    def __init__(self, body: nn.Module, skip: nn.Module | None = None, act: Activation | None = None) -> None:
        super().__init__()
        self.body, self.skip = body, nn.Identity() if skip is None else skip
        self.act = nn.Identity() if act is None else act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.body(x) + self.skip(x))


class Branches(nn.Module):
    """What several branches make of one input, concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def head(channels: int, classes: int = CLASSES, *, dropout: float = 0.0) -> nn.Sequential:
    """Global average pool, Flatten, and a linear layer."""
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), *drop, nn.Linear(channels, classes))
