"""The operations of a run, by what they are for and by the pass that they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from qpipe.ir.cost.network import CountedLayer
from qpipe.ir.cost.operations import Number, Operations
from qpipe.ops.work import Work

FORWARD: Final = "forward"
BACKWARD: Final = "backward"
INPUT_GRADIENT: Final = "input gradient"
WEIGHT_GRADIENT: Final = "weight gradient"
UPDATE: Final = "update"
BIAS: Final = "bias"
"""What a product does besides its multiply-accumulates."""


@dataclass(frozen=True)
class Part:
    """name: an op, or what else is done. stage: the pass. elements: of the results, each counted once.

    macs: multiply-accumulates, 0 of what is no product. is_low_bit: whether its operands are low-bit elements.
    """

    name: str
    stage: str
    elements: int
    macs: int
    is_low_bit: bool
    operations: Operations


class Tally:
    """Collects parts; what has one name and stage is one part."""

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self._parts = {(part.name, part.stage, part.is_low_bit): part for part in parts}

    def add(
        self,
        name: str,
        stage: str,
        elements: int,
        operations: Operations,
        *,
        macs: int = 0,
        is_low_bit: bool = False,
    ) -> None:
        """So much more; nothing where there are no operations."""
        if not operations:
            return
        key = (name, stage, is_low_bit)
        part = self._parts.setdefault(key, Part(name, stage, 0, 0, is_low_bit, Operations()))
        total = Operations(part.operations)
        total.update(operations)
        self._parts[key] = Part(name, stage, part.elements + elements, part.macs + macs, is_low_bit, total)

    def add_work(self, name: str, stage: str, elements: int, work: Work, number: Number) -> None:
        """What is done to so many elements."""
        operations = Operations()
        operations.put_work(elements, work, number)
        self.add(name, stage, elements, operations)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All, in the order in which they came first."""
        return tuple(self._parts.values())


def name_of(layer: CountedLayer) -> str:
    """What a layer's product is called: its op, apart from those of the first and the last layers."""
    return f"{layer.layer.op_type}, first or last" if layer.is_edge else layer.layer.op_type


def all_operations(parts: Iterable[Part]) -> Operations:
    """Of all parts together."""
    total = Operations()
    for part in parts:
        total.update(part.operations)
    return total
