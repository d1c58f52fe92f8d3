"""Let channels that a layer only passes on keep their codes, where ranges are powers of two.

A row of weights that is a Dirac kernel writes what it reads, `y[c] = g x[i]` with a power of two g (as `carry-skips`
leaves them). On grids that end at 2**s of x and 2**t of y, with g = 2**(t - s) each code of x is the same code of y:
nothing is rounded. Any other g that leaves the range rounds the lowest bits away, or leaves the highest empty. So the
channel gets that g, and what reads it the inverse: a power of two, the network is the same function, bit for bit.

Source: Meng et al. 2021, *RMNet*, has no integers; that powers of two pass through a multiplier unrounded is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.quantizing.calibrate_percentile import take_range, write_range
from qpipe.arith.namespace import Float64Array, IntArray
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.graph.layers import Layer, group_layers
from qpipe.ir.graph.passing import passing_gain
from qpipe.ir.graph.shared_channels import factor_graph
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ops import Rectifier, Role


@dataclass(frozen=True, kw_only=True)
class KeepCodes(ir.passes.InPlacePass):
    """Rescale the channels that layers of a float network pass on; its ranges are observed, and rounded up."""

    name: ClassVar[str] = "keep-codes"

    activation_bits: int = 8
    layers: LayerTable = NO_OPTIONS

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rescale; raises ModelError on a tensor without a range."""
        plan = plan_quantization(model.graph, activation_bits=self.activation_bits, layers=self.layers)
        tops: dict[ir.Value, int | None] = {}
        for value in plan.quantizers:
            found = take_range(value)
            write_range(value, found)
            tops[value] = found.log2_ymax()
        modified = False
        for layer in plan.layers:
            before, after = tops.get(_rounded(layer.inputs[0], tops)), tops.get(layer.output)
            if before is not None and after is not None and _is_linear(layer):
                modified |= _set_gain(model.graph, layer, 2.0 ** (after - before))
        return ir.passes.PassResult(model, modified)


def _is_linear(layer: Layer) -> bool:
    """Whether a channel on which nothing is below 0 leaves it as its sums are."""
    return layer.is_weighted and (layer.function is None or isinstance(layer.function, Rectifier))


def _rounded(value: ir.Value, tops: dict[ir.Value, int | None]) -> ir.Value:
    """The value whose grid this one has: what only carries integers has that of its operand."""
    while value not in tops and (node := value.producer()) is not None and Layer(node).role is Role.CARRY:
        value = Layer(node).inputs[0]
    return value


def _set_gain(graph: ir.Graph, layer: Layer, wanted: float) -> bool:
    """Of the channels that pass something on."""
    gain = passing_gain(layer)
    if not (gain > 0).any():
        return False
    shared = factor_graph(graph, group_layers(graph))
    factors = next((each.tensors[layer.output] for each in shared.shared if layer.output in each.tensors), None)
    if factors is None:
        return False
    ratios = _ratios(factors.reshape(-1), gain, wanted)
    shared.multiply(ratios)
    return bool(ratios)


def _ratios(factors: IntArray, gain: Float64Array, wanted: float) -> dict[int, float]:
    """By which to divide each factor that is one channel's alone."""
    own, counts = np.unique(np.abs(factors), return_counts=True)
    alone = set(own[(counts == 1) & (own != 0)].tolist())
    if len(factors) != len(gain):
        return {}
    return {
        int(factor): float(each / wanted)
        for factor, each in zip(factors, gain, strict=True)
        if each > 0 and each != wanted and int(factor) in alone
    }
