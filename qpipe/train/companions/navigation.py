"""Ways through an executor's layers: by the names of nodes, and from a layer to those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from qpipe.errors import ModelError
from qpipe.ir.quantized.view import Requantization
from qpipe.nodes import describe
from qpipe.ops import Role
from qpipe.train.executor import Executor
from qpipe.train.quantizer import Quantizer


def key_of(network: Executor, name: str) -> str:
    """The key of the layer that has a node of this name; ModelError where there is none."""
    for index, layer in enumerate(network.plan):
        if any(node.name == name for node in layer.nodes):
            return str(index)
    raise ModelError(f"no layer has a node '{name}'")


def key_giving(network: Executor, value: ir.Value) -> str | None:
    """The key of the layer whose result this is; None for the network's input."""
    return next((str(index) for index, layer in enumerate(network.plan) if layer.result is value), None)


def key_before(network: Executor, key: str) -> str:
    """The key of the layer whose result this one reads first; ModelError where that is the network's input."""
    found = _key_before(network, key)
    if found is None:
        node = network.plan[int(key)].node
        raise ModelError(f"{describe(node)}: reads the network's input, expected a layer before it")
    return found


def reads_the_input(network: Executor, key: str) -> bool:
    """Whether there is no layer before this one."""
    return _key_before(network, key) is None


def _key_before(network: Executor, key: str) -> str | None:
    """Looking through requantizations."""
    found = key_giving(network, network.reads[int(key)][0])
    looks_through = found is not None and isinstance(network.plan[int(found)], Requantization)
    return _key_before(network, str(found)) if looks_through else found


def input_quantizer(network: Executor, key: str) -> Quantizer | None:
    """What rounds a layer's first input; None where that is the quantizer of the network's input."""
    found = key_giving(network, network.reads[int(key)][0])
    if found is None:
        return None
    layer = network.plan[int(found)]
    carries = layer.role is Role.CARRY and layer.activation is None
    return input_quantizer(network, found) if carries else network.quantizer(found)


def section(network: Executor, start: ir.Value, end: ir.Value) -> list[int]:
    """The layers on the paths from one value to another, in order; empty where they are one value."""
    found: set[int] = set()
    stack = [end]
    while stack:
        value = stack.pop()
        key = None if value is start else key_giving(network, value)
        if key is not None and int(key) not in found:
            found.add(int(key))
            stack.extend(network.reads[int(key)])
    return sorted(found)


@dataclass(frozen=True)
class LayerShapes:
    """first_input: of what a layer reads first. result: of what it gives. Both with a batch of 1."""

    first_input: torch.Size
    result: torch.Size


@torch.no_grad()
def layer_shapes(network: Executor, image_shape: Sequence[int]) -> list[LayerShapes]:
    """The shapes at every layer, by an evaluation of zeros, which leaves the network in evaluation mode.

    image_shape: of one input, without the batch.
    """
    found: list[LayerShapes] = []
    values = network.eval().start(torch.zeros(1, *image_shape))
    for index, layer in enumerate(network.plan):
        first_input = values[network.reads[index][0]].shape
        network.run(values, [index])
        found.append(LayerShapes(first_input, values[layer.result].shape))
    return found
