"""The quantizers of a layer's weights by name, and the widths that each can have."""

from collections.abc import Mapping
from typing import Final, Literal

WeightQuantizer = Literal["fixed-point", "dorefa", "lq", "bireal", "groupnet"]

BINARY_QUANTIZERS: Final[frozenset[WeightQuantizer]] = frozenset({"bireal", "groupnet"})
"""One bit of weights and of what they multiply."""

WEIGHT_BITS: Final[Mapping[WeightQuantizer, range]] = {
    "fixed-point": range(2, 9),
    "lq": range(2, 5),
}
