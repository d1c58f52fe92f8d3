"""Preprocessing at the head of a network: casts, a transposition, factors and offsets before anything else.

y = a * pixel + b  =  (pixel - mean) / std    with std = 1 / a, mean = -b / a, a and b one number or one per channel
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.nodes import constant_array, describe

_PASSED: Final = frozenset({"Cast", "Identity", "Transpose"})
_AFFINE: Final = frozenset({"Add", "Sub", "Mul", "Div"})
# A network that starts with more is not one that starts with preprocessing.
_LONGEST: Final = 16
# A smaller factor brings 0..255 into the range that networks are trained in.
_SMALL_FACTOR: Final = 1 / 16

Numbers = npt.NDArray[np.float64]


def preprocessing_of(node: ir.Node) -> str | None:
    """What to do where the node is part of a prologue: which options stand for it; None of any other node."""
    before = _back_to_input(node)
    if before is None:
        return None
    nodes = [*before, *_forward(node)]
    source = _data(nodes[0])
    assert source is not None
    a, b = np.ones(1), np.zeros(1)
    for step in nodes:
        changed = _apply(step, a, b)
        if changed is None:
            return f"preprocessing that differs from pixel to pixel: apply {_names(nodes)} to the data instead"
        a, b = changed
    if not (np.isfinite(a) & np.isfinite(b)).all() or (a <= 0).any():
        return f"preprocessing with a factor that is not above 0: apply {_names(nodes)} to the data instead"
    is_integer = source.dtype is not None and source.dtype.is_integer()
    pixels = 255 if is_integer or a.max() <= _SMALL_FACTOR else 1
    options = f"--pixel-range {pixels} --mean {_option(-b / a)} --std {_option(1 / a)}"
    turned = ", so that it takes [N, C, H, W]," if any(step.op_type == "Transpose" for step in nodes) else ""
    return f"preprocessing: take {_names(nodes)} out of the network{turned} and give {options}"


def _data(node: ir.Node) -> ir.Value | None:
    """The one input that is not constant, of a node that a prologue can have; None of another node."""
    if node.op_type not in _PASSED | _AFFINE or node.domain != "":
        return None
    data = [value for value in node.inputs if value is not None and constant_array(value) is None]
    return data[0] if len(data) == 1 else None


def _back_to_input(node: ir.Node) -> list[ir.Node] | None:
    """From the graph's input to this node; None where something else is between."""
    found = [node]
    while len(found) <= _LONGEST and (value := _data(found[0])) is not None:
        producer = value.producer()
        if producer is None:
            return found if value.is_graph_input() else None
        found.insert(0, producer)
    return None


def _forward(node: ir.Node) -> list[ir.Node]:
    """What alone reads the node, and so on, as long as a prologue goes."""
    found: list[ir.Node] = []
    while len(found) < _LONGEST:
        value = (found[-1] if found else node).outputs[0]
        readers = list(value.consumers())
        if len(readers) != 1 or value.is_graph_output() or _data(readers[0]) is None:
            break
        found.append(readers[0])
    return found


def _apply(node: ir.Node, a: Numbers, b: Numbers) -> tuple[Numbers, Numbers] | None:
    """The factor and the offset behind the node; None where its constant is not one number or one per channel."""
    if node.op_type in _PASSED:
        return a, b
    constant: Any = next(array for value in node.inputs if (array := constant_array(value)) is not None)
    if sum(size > 1 for size in constant.shape) > 1 or not constant.size:
        return None
    k = constant.reshape(-1).astype(np.float64)
    if len(k) > 1 and max(len(a), len(b)) > 1 and len(k) != max(len(a), len(b)):
        return None
    is_first = constant_array(node.inputs[0]) is not None
    with np.errstate(all="ignore"):
        match node.op_type:
            case "Add":
                return a, b + k
            case "Sub":
                return (-a, k - b) if is_first else (a, b - k)
            case "Mul":
                return a * k, b * k
            case _:
                return None if is_first else (a / k, b / k)


def _names(nodes: list[ir.Node]) -> str:
    return ", ".join(describe(node) for node in nodes if node.op_type != "Identity")


def _option(values: Numbers) -> str:
    """As the command line takes it: seven digits, which is what float32 has; one number where all are equal."""
    texts = [f"{value + 0.0:.7g}" for value in values]
    return ",".join(texts[:1] if len(set(texts)) == 1 else texts)
