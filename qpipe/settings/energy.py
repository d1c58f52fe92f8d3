"""What an estimate of energy is told."""

from typing import Final

from pydantic import Field

from qpipe.settings.arithmetic import (
    Element,
    ElementActivation,
    ElementError,
    ElementWeight,
    Group,
    GroupActivation,
    GroupError,
    GroupWeight,
    GroupWidths,
    LowBitEnds,
)
from qpipe.settings.base import FilePath, Settings

PRICE_LISTS: Final = ("horowitz", "equation-9", "table-5")
"""Those that are built in; the first is the most complete."""


class EnergySettings(Settings):
    """The arithmetic of low-bit training, and what operations cost."""

    element: Element = (2, 4)
    element_weight: ElementWeight = None
    element_activation: ElementActivation = None
    element_error: ElementError = None
    group: Group = "nc"
    group_weight: GroupWeight = None
    group_activation: GroupActivation = None
    group_error: GroupError = None
    group_format: GroupWidths = (8, 1)
    low_bit_ends: LowBitEnds = False
    batch_size: int = Field(
        default=128, ge=1, description="images of a training step, over which weights are quantized and updated once"
    )
    prices: FilePath | None = Field(
        default=None,
        description=f"what operations cost: {', '.join(PRICE_LISTS)}, or a .toml file; by default all of the named",
    )
