"""What a calibrated file says of itself beside the float network that it was made from, under `qpipe.comparison`."""

from __future__ import annotations

from dataclasses import dataclass

MOST_DECIBELS = 200.0
"""What tensors without any noise have; float32 has 150."""


@dataclass(frozen=True)
class TensorComparison:
    """tensor: the name of the float value. layer: the node that gives it. bits: None of a last layer's, or an output.

    decibels: of signal to noise, at most `MOST_DECIBELS`. channels: how many it has. lost: those with fewer than 2
    levels. largest: the channel with the largest magnitude, and how many times the median channel's it is.
    """

    tensor: str
    layer: str
    bits: int | None
    decibels: float
    channels: int
    lost: tuple[int, ...] = ()
    largest: tuple[int, float] = (0, 1.0)


@dataclass(frozen=True)
class NetworkComparison:
    """images: how many were run. agreement: how often the first choice of the first output is the float network's.
    problems: what was found wrong, a line each, the worst first.

    agreement is a fraction of 1; None where the output is neither scores `[N, C]` of two or more, nor a choice `[N]`.
    """

    images: int
    tensors: tuple[TensorComparison, ...]
    agreement: float | None
    problems: tuple[str, ...] = ()
