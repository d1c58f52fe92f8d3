"""A channel without levels is told where its loss shows: of queries and keys in their product."""

from __future__ import annotations

import pytest

from qpipe.calibration.findings import find_problems
from qpipe.ir.quantized.compared import NetworkComparison, TensorComparison
from qpipe.ir.quantized.view import read_view
from qpipe.ops import Role
from support.networks import Network
from support.quantize import finalized, quantized


def attention() -> tuple[Network, str]:
    """Queries and keys of one head, and values that a layer of weights reads as well."""
    n = Network(8, 6, seed=4)
    q, k, v = (n.op("MatMul", "x", n.constant(n.floats(6, 6)), name=name) for name in "qkv")
    scores = n.op("MatMul", q, n.op("Transpose", k, perm=[0, 2, 1]), name="scores")
    mixed = n.op("MatMul", n.op("Softmax", scores, axis=-1), v)
    other = n.op("MatMul", v, n.constant(n.floats(6, 6)))
    return n, n.op("MatMul", n.op("Add", mixed, other), n.constant(n.floats(6, 5)))


@pytest.mark.parametrize(
    ("name", "decibels", "told"),
    [("q", 16, False), ("k", 16, False), ("q", 15, True), ("k", 15, True), ("v", 16, True)],
)
def test_lost_channels_of_what_no_weights_read(name: str, decibels: float, told: bool) -> None:
    n, y = attention()
    outputs = {node.name: node.output[0] for node in n.nodes}
    model = quantized(n.model(y))
    view = read_view(model)
    tensors = [TensorComparison(outputs[name], name, 8, 30.0, 8, lost=(0, 1, 2), largest=(3, 900.0))]
    for layer in view.layers:
        value = str(layer.output.name)
        if layer.quantizer is not None and layer.role is not Role.CARRY and value != outputs[name]:
            tensors.append(TensorComparison(value, layer.name, 8, decibels if layer.name == "scores" else 30.0, 8))
    found = find_problems(NetworkComparison(4, tuple(tensors), None), view, read_view(finalized(model)))
    assert any(f"{name}: 3 of 8 channels" in line for line in found) == told
