"""Keep in float what leads from the network's inputs to a logarithm: the front end of a network that reads spectra.

    Log(M |F x|**p + e)         x: a waveform; F: windows of a Fourier transform; M: bands
    Log(x + e)                  x: a spectrum, or anything else that spans decades

8 bits hold two decades, and a logarithm asks for all: a pitch network whose spectrum is rounded to 8 bits first has 9
dB, and 36 where the integers begin behind the logarithm. Whoever deploys such a network computes its front end in
float, or in fixed point of 16 bits and more.

It is one where nothing before the logarithm is trained: no activation of a network, no BatchNormalization or bias of a
layer, and no weights but those of formulas. And behind it there are weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.layers import IS_FORMULA, STAYS_FLOAT
from qpipe.nodes import AnyArray, constant_array, constant_input, describe
from qpipe.ops import Product, op_of

_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")
_SPECTRAL: Final = frozenset(
    (
        *(*_PRODUCTS, "BatchNormalization", "DFT", "STFT", "AveragePool"),
        *("Abs", "Sqrt", "Pow", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"),
        *("Add", "Sub", "Mul", "Div", "Neg", "Max", "Min", "Clip"),
        *("Pad", "Reshape", "Flatten", "Transpose", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Gather"),
        *("Cast", "Identity", "Expand", "Tile"),
    )
)
_WHY: Final = "reads more decades than 8 bits hold; --layer '*:stays_float=false' quantizes what leads to it too"
_FEWEST: Final = 8
"""Taps of which symmetry says something."""
_LONG: Final = 32
"""Taps of which a spectrum says something."""
_LOBE: Final = 3
"""Bins on either side of the largest that a window's main lobe has, and how much of the energy they hold."""
_WITHIN: Final = 0.9
_NEAR: Final = 1e-3
"""Of a row's largest weight: what its two halves may differ by."""
_NOTHING: Final = 1e-6
"""Of the largest of all: a sine of half the rate is 0 but for rounding."""


@dataclass(frozen=True, kw_only=True)
class KeepFrontEnd(ir.passes.InPlacePass):
    """Mark each node up to such a logarithm as one that stays float, where nothing was told of it."""

    name: ClassVar[str] = "keep-front-end"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Of a normalized float network."""
        modified, leading = False, leading_to_weights(model.graph)
        logs = [node for node in model.graph if node.op_type == "Log" and node.domain == ""]
        for log in [node for node in logs if node.outputs[0] in leading]:
            for node in _front_end(log):
                if STAYS_FLOAT not in node.metadata_props:
                    node.metadata_props[STAYS_FLOAT] = f"{describe(log)} {_WHY}"
                    node.metadata_props[IS_FORMULA] = "front end"
                    modified = True
        return ir.passes.PassResult(model, modified)


def quantize_front_ends(graph: ir.Graph) -> None:
    """Take back what the pass marked, as of a network that was calibrated before with integers there."""
    for node in graph:
        if node.metadata_props.pop(IS_FORMULA, None) is not None:
            node.metadata_props[STAYS_FLOAT] = ""


def has_front_end(graph: ir.Graph) -> bool:
    """Whether any node has its mark."""
    return any(IS_FORMULA in node.metadata_props for node in graph)


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
                if producer.op_type not in _SPECTRAL or producer.domain != "" or _is_trained(producer):
                    return set()
                found.add(producer)
                stack.append(producer)
    return found if reads_input else set()


def _is_trained(node: ir.Node) -> bool:
    """Whether its weights, or what it adds to those of a layer or multiplies them by, are no formula's."""
    if node.op_type == "BatchNormalization":
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        behind = producer is not None and producer.op_type in _PRODUCTS
        return behind and not all(_is_one_number(node, index) for index in (1, 2, 3, 4))
    if node.op_type not in _PRODUCTS:
        return False
    weights = [(index, array) for index in (0, 1) if (array := constant_input(node, index)) is not None]
    return not _is_one_number(node, 2) or not all(_is_formula(_rows(node, index, array)) for index, array in weights)


def _is_one_number(node: ir.Node, index: int) -> bool:
    """Whether an input is left out, or a constant that is the same for all channels, as what keeps a Log from 0 is."""
    array = constant_input(node, index)
    return array is None or np.unique(array).size == 1


def _rows(node: ir.Node, index: int, weight: AnyArray) -> AnyArray:
    """What is multiplied and summed up, along the last axis: of a window its taps, else all that a result reads."""
    op = op_of(node)
    if index == 1 and isinstance(op, Product) and weight.ndim == 2 and node.op_type != "Conv":
        return op.to_rows(node, weight)
    if node.op_type == "Conv":
        taps = int(np.prod(weight.shape[2:]))
        return weight.reshape(-1, taps) if taps > 1 else weight.reshape(weight.shape[0], -1)
    rows: AnyArray = weight if index == 0 else np.swapaxes(weight, -1, -2)
    return rows.reshape(-1, rows.shape[-1])


def _is_formula(rows: AnyArray) -> bool:
    """Whether each row is a band's or a mean's, a symmetric window or wave, or one tone; or there is one alone."""
    rows = rows.astype(np.float64)
    if len(rows) == 1:
        return True
    told = (rows >= 0).all(axis=1)
    if rows.shape[1] >= _FEWEST:
        limit = np.maximum(_NEAR * np.abs(rows).max(axis=1), _NOTHING * np.abs(rows).max())
        for mirrored in (rows[:, ::-1], np.roll(rows[:, ::-1], 1, axis=1)):
            for sign in (1, -1):
                told |= np.abs(rows - sign * mirrored).max(axis=1) <= limit
    if rows.shape[1] >= _LONG:
        energy = np.square(np.abs(np.fft.rfft(rows, axis=1)))
        near = np.abs(np.arange(energy.shape[1]) - energy.argmax(axis=1)[:, None]) <= _LOBE
        told |= (energy * near).sum(axis=1) >= _WITHIN * energy.sum(axis=1)
    return bool(told.all())
