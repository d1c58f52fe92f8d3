"""What skip connections carry, and what has 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.nodes import describe
from qpipe.ops import Role


def on_skips(layers: Sequence[Layer]) -> set[ir.Value]:
    """What reaches an Add without passing weights, up to and including the activation or Add that it starts from."""
    by_output = {layer.output: layer for layer in layers}
    found: set[ir.Value] = set()
    stack = [value for layer in layers if layer.op.is_sum for value in layer.inputs]
    while stack:
        layer = by_output.get(stack.pop())
        if layer is None or (layer.role is Role.COMPUTE and layer.activation is None):
            continue
        found.add(layer.output)
        if layer.role in {Role.CARRY, Role.POOL}:
            stack.extend(layer.inputs)
    return found


def wide_streams(layers: Sequence[Layer], but: Set[ir.Node]) -> set[ir.Value]:
    """Sums that what asks for 16 bits reads, directly, along further sums, or through what only moves numbers.

    but: nodes whose width is said, or that have none.
    """
    asked: set[ir.Value] = set()
    for layer in reversed(layers):
        if layer.op.asks_wide or (layer.output in asked and (_adds(layer) or _moves(layer))):
            asked.update(layer.inputs)
    return _from(layers, asked, lambda layer: _adds(layer) and layer.node not in but)


def summed_products(layers: Sequence[Layer], but: Set[ir.Node]) -> set[ir.Value]:
    """Products of two activations that nothing but sums along axes reads, directly or through what only moves numbers.

    but: nodes whose width is said.
    """
    readers: dict[ir.Value, list[Layer]] = {}
    for layer in layers:
        for value in layer.inputs:
            readers.setdefault(value, []).append(layer)
    summed: set[ir.Value] = set()
    for layer in reversed(layers):
        own = readers.get(layer.output, [])
        if own and all(one.op.sums_wide(one.node) or (_moves(one) and one.output in summed) for one in own):
            summed.add(layer.output)
    return _from(layers, summed, lambda layer: _multiplies(layer) and layer.node not in but)


def check_width(layer: Layer, inputs: Sequence[ActivationQuantizer], outputs: Sequence[ActivationQuantizer]) -> None:
    """ModelError where it has codes of 16 bits and takes none, or gives some and can't."""
    reads, moves = layer.op.takes_wide(layer.node), layer.op.moves_wide
    for quantizers, can in ((inputs, reads or moves), (outputs, moves or layer.op.gives_wide)):
        if not can and (wide := next((q for q in quantizers if q.grid.is_wide), None)) is not None:
            raise ModelError(f"{describe(layer.node)}: tensor '{wide.source.name}' has codes of 16 bits, expected 8")


def _from(layers: Sequence[Layer], among: Set[ir.Value], begins: Callable[[Layer], bool]) -> set[ir.Value]:
    """Of these values those that layers give which begin one, and what only moves their numbers."""
    found: set[ir.Value] = set()
    for layer in layers:
        if layer.output in among and (begins(layer) or (_moves(layer) and layer.inputs[0] in found)):
            found.add(layer.output)
    return found


def _multiplies(layer: Layer) -> bool:
    return layer.op.is_product and len(layer.inputs) == 2 and layer.activation is None


def _adds(layer: Layer) -> bool:
    return layer.op.is_sum and layer.activation is None


def _moves(layer: Layer) -> bool:
    return layer.op.moves_wide and layer.activation is None and len(layer.inputs) == 1
