"""Sums, maxima, look-ups and roots of rows: numpy, torch and the nodes that are written give the same integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from qpipe.arith.rows import ROOT_BITS, count_reached, integer_root, look_up, row_max, row_min, row_sum
from qpipe.arith.symbolic import INT32, Symbol
from qpipe.lowering.integer_builder import IntegerBuilder

LARGEST = 2**ROOT_BITS
ROOTS = math.isqrt(LARGEST)


def numbers() -> np.ndarray:
    """All small ones, every square and its neighbours, the largest, and random ones between."""
    squares = np.arange(1, ROOTS + 1, dtype=np.int64) ** 2
    drawn = np.random.default_rng(0).integers(1, LARGEST + 1, 20_000)
    found = np.concatenate([np.arange(1, 5_000), squares, squares - 1, squares + 1, drawn, [LARGEST]])
    return found[(found > 0) & (found <= LARGEST)][:, None]


def written(function: Callable[[Symbol], Symbol], x: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of the function's nodes."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(x.shape))
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": 21}, name="graph")
    b = IntegerBuilder(graph)
    result = function(Symbol(b, value, INT32)).handle
    graph.extend(b.nodes)
    graph.outputs.append(result)
    result.shape = ir.Shape([f"d{i}" for i in range(x.ndim)])
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    found: np.ndarray = session.run(None, {"x": x.astype(np.int32)})[0]
    return found


def test_roots() -> None:
    x = numbers()
    expected = [[math.isqrt(number)] for number in x[:, 0].tolist()]
    np.testing.assert_array_equal(integer_root(x), expected)
    np.testing.assert_array_equal(integer_root(torch.from_numpy(x)).numpy(), expected)
    np.testing.assert_array_equal(written(integer_root, x), expected)


@pytest.mark.parametrize(
    "function",
    [row_sum, row_max, row_min, lambda x: look_up(np.arange(100, dtype=np.int32) ** 2, x), lambda x: 1000 // (x + 1)],
    ids=["sum", "max", "min", "look up", "quotient"],
)
def test_all_interpretations_agree(function: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(1).integers(0, 100, (2, 3, 7))
    expected = function(x)
    np.testing.assert_array_equal(function(torch.from_numpy(x)).numpy(), expected)
    np.testing.assert_array_equal(written(function, x), expected)


def test_bounds_are_reached_by_what_is_as_large() -> None:
    x = np.array([[-1], [0], [3], [4], [100]])
    for found in (
        count_reached(x, [0, 4, 9]),
        count_reached(torch.from_numpy(x), [0, 4, 9]).numpy(),
        written(lambda x: count_reached(x, [0, 4, 9]), x),
    ):
        assert found.tolist() == [[0], [1], [1], [2], [3]]
