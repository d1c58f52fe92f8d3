"""The branch of an If that data choose, of a network whose layers lie in branches: each is a network of its own.

    If(sr == 16000, then: a network for 16 kHz, else: one for 8 kHz)  =  the first        sr 16000 in all samples

Exporters put networks together so (Silero's voice activity, decoders with a cache and without one), and an input of
integers or truth values says which it is to be.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from passes.rewrites.fold_constants import FoldConstants
from qpipe.data import DataLike, open_data
from qpipe.data.inputs import inputs_of
from qpipe.errors import ModelError
from qpipe.nodes import AnyArray, constant_array, describe, initializer, inner_graphs
from qpipe.ops import Product, op_of
from qpipe.verbs.sources import PreprocessLike, preprocess_of

_LOOKED_AT: Final = 1024
"""Samples."""
_TOGETHER: Final = 64
Choices = dict[ir.Value, ir.Node]


def take_branches(network: ir.Model, data: DataLike, preprocess: PreprocessLike) -> DataLike:
    """Replace each such input by its number in the data, and its If by the branch; a warning says so.

    The data are given back, opened where they had to be. ModelError where their numbers differ.
    """
    while choices := branch_inputs(network.graph):
        value, node = next(iter(choices.items()))
        inputs = inputs_of(network.graph)
        data = open_data(data, "train", preprocess_of(network, preprocess), labels=False, inputs=inputs)
        batches = data.batches(_TOGETHER, limit=_LOOKED_AT)
        rows = [np.asarray(batch.inputs[str(value.name)]) for batch in batches if isinstance(batch.inputs, Mapping)]
        number = _only(value, node, rows)
        constant = initializer(network.graph, f"{value.name}_chosen", number)
        value.replace_all_uses_with(constant)
        network.graph.inputs.remove(value)
        FoldConstants()(network)
        warnings.warn(
            f"{said(value, node)}, and is {_shown(number)} in the data: the network is that branch alone, without this "
            "input",
            stacklevel=2,
        )
    return data


def branch_inputs(graph: ir.Graph) -> Choices:
    """Inputs of no float type that choose between branches with layers of weights, and nothing else does; the If."""
    found: Choices = {}
    for node in graph:
        if node.op_type == "If" and node.domain == "" and _holds_layers(node) and node.inputs[0] is not None:
            origins = _origins(node.inputs[0])
            if origins is not None and len(graph.inputs) > len(origins):
                found |= dict.fromkeys(origins, node)
    return found


def said(value: ir.Value, node: ir.Node) -> str:
    """Which input chooses."""
    return f"input '{value.name}' chooses the branch of {describe(node)}"


def _holds_layers(node: ir.Node) -> bool:
    inner = (each for graph in inner_graphs(node) for each in ir.traversal.RecursiveGraphIterator(graph))
    return any(isinstance(op_of(each), Product) for each in inner)


def _origins(value: ir.Value) -> list[ir.Value] | None:
    """The inputs that a truth value is computed of; None where there are others than integers, or branches."""
    origins, stack, seen = list[ir.Value](), [value], set[ir.Value]()
    while stack:
        current = stack.pop()
        if current in seen or constant_array(current) is not None:
            continue
        seen.add(current)
        node = current.producer()
        if node is not None:
            if inner_graphs(node) or node.op_type == "Shape":
                return None
            stack += [each for each in node.inputs if each is not None]
        elif current.is_graph_input() and current.dtype is not None and not current.dtype.is_floating_point():
            origins.append(current)
        else:
            return None
    return origins or None


def _only(value: ir.Value, node: ir.Node, rows: Sequence[AnyArray]) -> AnyArray:
    """The one number of all samples, in the input's shape."""
    dims = 0 if value.shape is None else len(value.shape)
    numbers = np.unique(np.concatenate([row.reshape(-1) for row in rows])) if rows else np.zeros(0)
    if len(numbers) != 1:
        several = ", ".join(map(str, numbers[:4].tolist()))
        raise ModelError(f"{said(value, node)}: the data have {several or 'none'}, expected one number")
    assert value.dtype is not None
    return numbers.astype(value.dtype.numpy()).reshape([1] * dims)


def _shown(number: AnyArray) -> str:
    return str(number.reshape(-1)[0])
