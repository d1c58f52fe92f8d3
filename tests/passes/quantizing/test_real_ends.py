"""Quantized files with integer ends, in ONNX's text: of real numbers they give what they gave of codes."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from passes.quantizing.real_ends import RealEnds
from qpipe.ir.files.load import load_model
from qpipe.runtime.session import open_session, run_feeds
from support.networks import ops, parse

RNG = np.random.default_rng(0)
CODES = RNG.integers(-128, 128, (2, 3, 4, 4)).astype(np.int8)
GRIDS: dict[str, Any] = {
    "sx": np.float32(0.03), "zx": np.int8(-5), "sw": np.float32(0.01), "zw": np.int8(0),
    "sy": np.float32(0.05), "zy": np.int8(7), "w": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
    "other": np.float32(0.06),
}  # fmt: skip
CONV = (
    "rw = DequantizeLinear(w, sw, zw)",
    "c = Conv<pads=[1,1,1,1]>(rx, rw)",
    "r = Relu(c)",
)
PLAIN = ("rx = DequantizeLinear(x, sx, zx)", *CONV, "y = QuantizeLinear(r, sy, zy)")
MOVED = (
    "t = Transpose<perm=[0,1,3,2]>(x)", "rx = DequantizeLinear(t, sx, zx)", *CONV,
    "q = QuantizeLinear(r, sy, zy)", "y = Transpose<perm=[0,2,3,1]>(q)",
)  # fmt: skip


def built(*nodes: str, inputs: str = "int8[2,3,4,4] x", outputs: str = "int8[2,a,b,c] y") -> ir.Model:
    return load_model(parse(f"({inputs}) => ({outputs}) {{ {' '.join(nodes)} }}", **GRIDS))


def run(model: ir.Model, x: np.ndarray[Any, Any]) -> Any:
    return run_feeds(open_session(model, name="net"), {"x": x})[0]


def real(codes: np.ndarray[Any, Any], scale: str, zero: str) -> Any:
    return ((codes.astype(np.float64) - GRIDS[zero]) * GRIDS[scale].astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("nodes", [PLAIN, MOVED])
def test_of_the_real_numbers_of_codes_come_the_real_numbers_of_the_result(nodes: tuple[str, ...]) -> None:
    model = built(*nodes)
    expected = real(run(model, CODES), "sy", "zy")
    assert RealEnds()(model).modified
    assert [value.dtype for value in [*model.graph.inputs, *model.graph.outputs]] == [ir.DataType.FLOAT] * 2
    assert [value.name for value in [*model.graph.inputs, *model.graph.outputs]] == ["x", "y"]
    np.testing.assert_array_equal(run(model, real(CODES, "sx", "zx")), expected)
    assert not RealEnds()(model).modified


@pytest.mark.parametrize(
    "nodes",
    [
        ("rx = DequantizeLinear(x, sx, zx)", "o = DequantizeLinear(x, other, zx)", "c = Add(rx, o)"),
        ("f = Cast<to=1>(x)", "rx = DequantizeLinear(x, sx, zx)", "c = Add(rx, f)"),
    ],
    ids=["two grids", "read as numbers"],
)
def test_codes_that_mean_two_things_stay(nodes: tuple[str, ...]) -> None:
    model = built(*nodes, "y = QuantizeLinear(c, sy, zy)")
    RealEnds()(model)
    assert model.graph.inputs[0].dtype is ir.DataType.INT8
    assert model.graph.outputs[0].dtype is ir.DataType.FLOAT


def test_counts_and_tokens_stay() -> None:
    model = built(
        "rx = DequantizeLinear(x, sx, zx)", "y = QuantizeLinear(rx, sy, zy)", "k = Identity(n)",
        inputs="int8[2,3,4,4] x, int64[2] n", outputs="int8[2,a,b,c] y, int64[2] k",
    )  # fmt: skip
    RealEnds()(model)
    assert [value.dtype for value in model.graph.inputs] == [ir.DataType.FLOAT, ir.DataType.INT64]
    assert [value.dtype for value in model.graph.outputs] == [ir.DataType.FLOAT, ir.DataType.INT64]
    assert ops(model).count("QuantizeLinear") == 2
