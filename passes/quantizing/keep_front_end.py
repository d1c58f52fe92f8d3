"""Keep a spectral front end in float: what leads from the network's inputs to the logarithm of a spectrum.

    Log(M |F x|**p + e)         x: a waveform; F: windows of a Fourier transform; M: bands

A spectrum spans many decades, of which 8 bits hold two, and a logarithm asks for all: a pitch network whose spectrum is
rounded to 8 bits first has 9 dB, and 36 where the integers begin behind the logarithm. Its weights are formulas, not
trained ones; whoever deploys such a network computes them in float, or in fixed point of 16 bits and more.

It is one where nothing before the logarithm is an activation of a network, which spectra have no use for, and behind it
there are weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.layers import INTERPOLATES, STAYS_FLOAT
from qpipe.nodes import constant_array, describe

_SPECTRAL: Final = frozenset(
    (
        *("Conv", "Gemm", "MatMul", "BatchNormalization", "DFT", "STFT", "AveragePool", "ConvTranspose"),
        *("Abs", "Sqrt", "Pow", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"),
        *("Add", "Sub", "Mul", "Div", "Neg", "Max", "Min", "Clip"),
        *("Pad", "Reshape", "Flatten", "Transpose", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Gather"),
        *("Cast", "Identity", "Expand", "Tile"),
    )
)


_WHY: Final = "has more decades than 8 bits hold; --layer '*:stays_float=false' quantizes it too"


@dataclass(frozen=True, kw_only=True)
class KeepFrontEnd(ir.passes.InPlacePass):
    """Mark each node up to such a logarithm as one that stays float."""

    name: ClassVar[str] = "keep-front-end"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Of a normalized float network."""
        modified, leading = False, leading_to_weights(model.graph)
        logs = [node for node in model.graph if node.op_type == "Log" and node.domain == ""]
        for log in [node for node in logs if node.outputs[0] in leading]:
            for node in _front_end(log):
                if STAYS_FLOAT not in node.metadata_props:
                    node.metadata_props[STAYS_FLOAT] = f"the spectrum of {describe(log)} {_WHY}"
                    node.metadata_props[INTERPOLATES] = "a spectrum's"
                    modified = True
        return ir.passes.PassResult(model, modified)


def _front_end(log: ir.Node) -> set[ir.Node]:
    """All nodes that it hangs on, and it; none where any of them is no part of a spectrum's formula."""
    found, stack = {log}, [log]
    reads_input = False
    while stack:
        for value in stack.pop().inputs:
            if value is None or constant_array(value) is not None:
                continue
            producer = value.producer()
            if producer is None:
                reads_input = True
            elif producer not in found:
                if producer.op_type not in _SPECTRAL or producer.domain != "":
                    return set()
                found.add(producer)
                stack.append(producer)
    return found if reads_input else set()
