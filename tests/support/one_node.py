"""One node beside ONNX's text: what the oracle and the executor make of it, on grids with steps of 1."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from hypothesis import strategies as st

from qpipe.arith.spec import QuantSpec
from qpipe.ir.quantized.oracle import layer_result
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import RequantizedLayer
from qpipe.ops import OPS
from support.networks import parse

GRID = QuantSpec.signed(8, 0)


def quantizer(name: str) -> ActivationQuantizer:
    return ActivationQuantizer(*(ir.Value(name=f"{name}{i}") for i in range(3)), GRID)


def node_of(text: str, shape: tuple[int, ...], **constants: Any) -> ir.Node:
    """The one node of `y = Op<...>(x, constants)`, x of a known shape."""
    sizes = ",".join(map(str, shape))
    model = ir.from_proto(parse(f"(float[{sizes}] x) => (float[] y) {{ y = {text} }}", **constants))
    return model.graph.node(0)


def by_the_oracle(node: ir.Node, *inputs: np.ndarray) -> np.ndarray:
    """The integers of the layer, within the grid."""
    sources = tuple(quantizer(f"s{i}") for i in range(len(inputs)))
    layer = RequantizedLayer(node, None, None, sources=sources, quantizer=quantizer("q"))
    codes = [(x + GRID.zero_point).astype(np.uint8) for x in inputs]
    return layer_result(layer, codes).astype(np.int64) - GRID.zero_point


def by_torch(node: ir.Node, *inputs: np.ndarray) -> np.ndarray:
    """What the executor computes, rounded to the grid."""
    y = OPS[node.op_type].torch(node)(*(torch.from_numpy(x).double() for x in inputs)).numpy()
    return np.clip(np.round(y), GRID.qmin, GRID.qmax).astype(np.int64)


def agree(expected: np.ndarray, node: ir.Node, *inputs: np.ndarray) -> None:
    expected = np.clip(expected, GRID.qmin, GRID.qmax)
    for found in (by_the_oracle(node, *inputs), by_torch(node, *inputs)):
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)


def drawn(draw: Callable[[Any], Any], *shape: int) -> np.ndarray:
    return np.random.default_rng(draw(st.integers(0, 999))).integers(-120, 121, shape)
