"""Round a float network's weights to the low-bit numbers that its training multiplied by.

    w' = quantize(w)        in each output channel multiples of Sg * St * 2**-M, a power of two

A network that was trained in MLS arithmetic holds the float weights that its updates moved; its forward saw them
rounded. Where that rounding is one of fixed point, by output channel, with scales that are powers of two, and to
nearest, what the forward saw are the integers of an exported file: here they take the floats' place, before
calibration chooses grids, so that these integers are what it finds.

Rounding is not idempotent: what is rounded down to a power of two is the top of a finer grid then, and is cut there. So
this is done once, to what training left; the record of it goes, as these are no longer the weights that were trained.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, equations 1 to 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, MlsFormat
from qpipe.ir.files.metadata import TRAINING, get_json, set_json
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.nodes import require_constant, set_constant_input


@dataclass(frozen=True, kw_only=True)
class HoldLowBitWeights(ir.passes.InPlacePass):
    """Replace the weights of a normalized float network's inner layers, or of all.

    element: bits of exponent (0 or 1) and mantissa. group_exponent: bits of a group's scale. ends: first and last
    layers were trained so too.
    """

    name: ClassVar[str] = "hold-low-bit-weights"

    element: tuple[int, int]
    group_exponent: int
    ends: bool = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Round the weights of a network that has a record of its training, which goes."""
        from qpipe.train.low_bit import rounded_weight

        if get_json(model, TRAINING) is None:
            return ir.passes.PassResult(model, False)
        set_json(model, TRAINING, None)
        for layer in self.layers(model):
            weight = require_constant(layer.node, 1, "weight")
            set_constant_input(layer.node, 1, rounded_weight(layer.node, weight, self.format))
        return ir.passes.PassResult(model, True)

    @property
    def format(self) -> MlsFormat:
        """Of these weights."""
        group = GroupFormat(self.group_exponent, 0)
        return MlsFormat(ElementFormat(*self.element), "n", group, power_of_two=True)

    def layers(self, model: ir.Model) -> list[Layer]:
        """Those that were trained so."""
        plan = plan_quantization(model.graph)
        return [layer for layer in plan.layers if layer.is_weighted and (self.ends or plan.is_inner(layer))]
