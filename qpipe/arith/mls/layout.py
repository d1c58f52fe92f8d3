"""How a tensor and its groups lie in memory: quantization goes through it as it lies there, in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qpipe.arith.mls.formats import MlsFormat

_CHUNK = 1 << 18
"""Numbers of a piece: buffers of 1 MiB stay in the cache, and what a call costs by itself is little beside them."""
_WIDE = 64
"""How many columns a maximum over rows needs to be as fast as memory is."""

Piece = tuple[slice, ...]


@dataclass(frozen=True)
class Layout:
    """The axes of a dense tensor in the order of memory, those merged that need not be told apart.

    shape: `[n, positions, c]` (channels last) or `[n, c, positions]`; of a grouped convolution's weight by c
    `[g, n / g * positions, c]` or `[g, n / g, c, positions]`; without groups `[1, numbers, 1]`. counted: which of these
    axes count groups.
    """

    shape: tuple[int, ...]
    counted: tuple[int, ...]
    channels_last: bool

    @classmethod
    def of(cls, x: torch.Tensor, fmt: MlsFormat, groups: int) -> Layout:
        """Of a contiguous or channels_last tensor; groups: of the convolution whose weight it is."""
        last = is_channels_last(x)
        if not fmt.axes:
            return cls((1, x.numel(), 1), (), last)
        n, c, positions = x.shape[0], math.prod(x.shape[1:2]), math.prod(x.shape[2:])
        if fmt.grouping == "c" and groups > 1:
            n //= groups
            return cls((groups, n * positions, c) if last else (groups, n, c, positions), (0, 2), last)
        axes = (0, 2) if last else (0, 1)
        return cls((n, positions, c) if last else (n, c, positions), tuple(axes[axis] for axis in fmt.axes), last)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """A view of the tensor with this shape."""
        return (x.movedim(1, -1) if self.channels_last else x).view(self.shape)

    def maxima(self, rows: torch.Tensor) -> torch.Tensor:
        """The largest magnitude of each group, with 1 for each axis that counts none."""
        *first, positions, c = self.shape
        folded = self._folded(positions, c)
        within = tuple(axis for axis in range(len(self.shape)) if axis not in self.counted)
        wide = rows.view(*first, positions // folded, folded * c)
        # Two passes that only read are faster than one that writes magnitudes, and than torch's infinity norm.
        found = torch.maximum(wide.amax(within, keepdim=True), -wide.amin(within, keepdim=True))
        if folded > 1:
            found = found.view(*found.shape[:-2], folded, c).amax(-2, keepdim=True)
        return found

    def _folded(self, positions: int, c: int) -> int:
        """How many rows to lay side by side, where rows are narrow and their maximum is wanted."""
        last = len(self.shape) - 1
        if last not in self.counted or last - 1 in self.counted or c >= _WIDE:
            return 1
        return next((f for f in range(-(-_WIDE // c), 2 * _WIDE) if positions % f == 0), 1)

    def pieces(self) -> Iterator[Piece]:
        """Stretches of memory of about a chunk: of the first axis, or of the second where one row has more."""
        first, second, *rest = self.shape
        row = second * math.prod(rest)
        if row <= _CHUNK:
            step = _CHUNK // row
            yield from ((slice(start, start + step),) for start in range(0, first, step))
        else:
            step = max(_CHUNK // math.prod(rest), 1)
            for at in range(first):
                yield from ((slice(at, at + 1), slice(start, start + step)) for start in range(0, second, step))

    def part(self, scales: torch.Tensor, piece: Piece) -> torch.Tensor:
        """What of the groups' scales belongs to a piece."""
        cut = zip(piece, scales.shape, strict=False)
        return scales[tuple(within if size > 1 else slice(None) for within, size in cut)]


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether memory has the second axis innermost, as it can have only one."""
    return x.dim() > 2 and x.movedim(1, -1).is_contiguous() and not x.is_contiguous()
