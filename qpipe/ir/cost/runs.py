"""The runs of a network that are compared: a training step and inference, in float and in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from qpipe.arith.mls.formats import ElementFormat
from qpipe.ir.cost.inference import IntegerLayers, float_inference, integer_inference
from qpipe.ir.cost.network import CountedNetwork
from qpipe.ir.cost.operations import FLOAT32, Integer, Operations
from qpipe.ir.cost.parts import Part, all_operations
from qpipe.ir.cost.prices import Use
from qpipe.ir.cost.training import LowBit, float_step, low_bit_step, simulated_step

KERNEL: Final = 9
"""Products of equation 9's sums: those of a 3×3 kernel."""
SUM: Final = Integer(16)
"""What equation 9 adds them in."""


@dataclass(frozen=True)
class Run:
    """A training step, or inference, in one arithmetic. use: which. images: how many it is of."""

    name: str
    use: Use
    images: int
    parts: tuple[Part, ...]

    @property
    def operations(self) -> Operations:
        """Of all parts."""
        return all_operations(self.parts)


@dataclass(frozen=True)
class Comparison:
    """The same work in float and otherwise."""

    what: str
    use: Use
    plain: Operations
    other: Operations


def float_network(
    network: CountedNetwork, batch: int, formats: LowBit, exports: Mapping[str, IntegerLayers]
) -> tuple[list[Run], list[Comparison]]:
    """Low-bit training beside float training, and exports, by their names, beside inference."""
    plain = Run("float step", "training", batch, float_step(network, batch))
    low_bit = Run("low-bit step", "training", batch, low_bit_step(network, batch, formats))
    first = Run("float inference", "inference", 1, float_inference(network))
    images = "1 image" if batch == 1 else f"{batch} images"
    compared = [
        Comparison("equation 9", "training", *equation_9(formats.weight.element, formats.activation.element)),
        Comparison(f"low-bit products, {images}", "training", *low_bit_products(plain.parts, low_bit.parts)),
        Comparison(f"whole step, {images}", "training", plain.operations, low_bit.operations),
    ]
    shipped = [
        Run(f"{name} inference", "inference", 1, integer_inference(network, layers)) for name, layers in exports.items()
    ]
    compared += [Comparison(run.name, "inference", first.operations, run.operations) for run in shipped]
    # A network may have no other layers than its first and its last.
    return [plain, low_bit, first, *shipped], [one for one in compared if one.other]


def quantized_network(
    network: CountedNetwork, batch: int, layers: IntegerLayers, simulated: int | None
) -> tuple[list[Run], list[Comparison]]:
    """What a QDQ file computes beside the same in float. simulated: see `simulated_step`; None: it can't be trained."""
    first = Run("float inference", "inference", 1, float_inference(network))
    ships = Run("integer inference", "inference", 1, integer_inference(network, layers))
    runs, compared = [first, ships], [Comparison(ships.name, "inference", first.operations, ships.operations)]
    if simulated is not None:
        plain = Run("float step", "training", batch, float_step(network, batch))
        step = Run("simulated step", "training", batch, simulated_step(network, batch, simulated))
        runs = [plain, step, *runs]
        compared = [Comparison(step.name, "training", plain.operations, step.operations), *compared]
    return runs, compared


def equation_9(left: ElementFormat, right: ElementFormat) -> tuple[Operations, Operations]:
    """The MLS paper's estimate for convolutions: 9 products in float, and low-bit (Appendix E, equation 9).

    `(4 MUL + LocalACC + Tree) / (4/7 MUL + (LocalACC + Scale) / 20 + Tree)` by its own prices, which is 6.83. Of the 9
    products of a 3×3 kernel 8 are added in a 16-bit sum, which is scaled once and goes to the adder tree once:
    `LocalACC = MACs (1 - 1/9)`, `Scale = Tree = MACs / 9`.
    """
    plain, low_bit = Operations(), Operations()
    local, scale, tree = KERNEL - 1, 1, 1
    plain.put(KERNEL, "multiply", FLOAT32)
    plain.put(local + tree, "add", FLOAT32)
    low_bit.put(KERNEL, "multiply", left, right)
    low_bit.put(local + scale, "add", SUM)
    low_bit.put(tree, "add", FLOAT32)
    return plain, low_bit


def low_bit_products(plain: Sequence[Part], low_bit: Sequence[Part]) -> tuple[Operations, Operations]:
    """Of the products that are low-bit: as they are in float, and as they are."""
    chosen = [part for part in low_bit if part.is_low_bit]
    keys = {(part.name, part.stage) for part in chosen}
    return all_operations(p for p in plain if (p.name, p.stage) in keys), all_operations(chosen)
