"""The ONNX interpreter of the arithmetic: the nodes that it emits give on onnxruntime what numpy gives."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith.namespace import integers
from qpipe.arith.quantize import MAX_SHIFT, divide_half_even, requantization, requantize
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import SYMBOLIC, UINT8, Symbol
from qpipe.lowering.integer_builder import IntegerBuilder


class Graph:
    """A graph of one int32 input `x` that is being written."""

    def __init__(self, sizes: tuple[int, ...] = ()) -> None:
        self.input = ir.Value(name="x", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(["N", *sizes]))
        self.graph = ir.Graph([self.input], [], nodes=[], opset_imports={"": 21}, name="graph")
        self.builder = IntegerBuilder(self.graph)
        self.x = Symbol(self.builder, self.input, np.int32, sizes)

    @property
    def ops(self) -> list[str]:
        return [node.op_type for node in self.builder.nodes]

    def run(self, output: Symbol, x: np.ndarray) -> np.ndarray:
        self.graph.extend(self.builder.nodes)
        self.graph.outputs.append(output.handle)
        output.handle.shape = ir.Shape([f"d{i}" for i in range(len(x.shape))])
        proto = ir.to_proto(ir.Model(self.graph, ir_version=10))
        onnx.checker.check_model(proto, full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        return session.run(None, {"x": x.astype(np.int32)})[0]


@settings(max_examples=40)
@given(st.data())
def test_requantize_as_numpy_computes_it(data):
    draw = data.draw
    signed, bits, channels = draw(st.booleans()), draw(st.integers(2, 8)), draw(st.integers(1, 5))
    spec = QuantSpec.signed(bits, 0) if signed else QuantSpec.unsigned(bits, 0)
    multiplier, shift, bias = (
        np.array(draw(st.lists(numbers, min_size=channels, max_size=channels)))
        for numbers in (st.integers(1, 255), st.integers(-3, MAX_SHIFT), st.integers(-(2**20), 2**20))
    )
    reach = draw(st.sampled_from([None, 2**10, 2**20]))
    constants = requantization(multiplier, shift, spec, bias, None if reach is None else (-reach, reach))
    limit = reach or 2**30
    x = np.random.default_rng(draw(st.integers(0, 99))).integers(-limit, limit + 1, (3, 4, channels))
    x[0] = np.clip(-bias, -limit, limit)  # around zero, where nothing saturates
    graph = Graph((4, channels))
    found = graph.run(requantize(graph.x, constants), x)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, requantize(x, constants))


def test_every_tie_and_its_neighbours():
    spec = QuantSpec.signed(8, 0)
    constants = requantization([5, 12], [9, 3], spec, [-7, 0])
    x = np.repeat(np.arange(-30000, 30000)[:, None], 2, axis=1)
    graph = Graph((2,))
    np.testing.assert_array_equal(graph.run(requantize(graph.x, constants), x), requantize(x, constants))


@pytest.mark.parametrize("denominator", [7, np.array([[3], [4], [12], [49]])])
def test_divide_half_even_as_numpy_computes_it(denominator):
    x = np.random.default_rng(0).integers(0, 5000, (50, 4, 3))
    graph = Graph((4, 3))
    found = graph.run(divide_half_even(graph.x, denominator), x)
    np.testing.assert_array_equal(found, divide_half_even(x, denominator))


def test_low_bits_need_no_slow_operator():
    graph = Graph()
    _ = integers(graph.x).not_equal(graph.x & 0x1FFFF, 0)
    assert graph.ops == ["Cast", "Mul", "Cast", "Cast"]


@pytest.mark.parametrize("bits", [1, 8, 16, 17, 23])
def test_low_bits_of_positive_and_negative_numbers(bits):
    x = np.array([-(2**30), -(2**bits), -1, 0, 1, 2**bits, 2 ** (bits - 1), 2**30 - 1])[:, None]
    graph = Graph((1,))
    found = graph.run(integers(graph.x).not_equal(graph.x & (2**bits - 1), 0), x)
    np.testing.assert_array_equal(found, (x & (2**bits - 1)) != 0)


def test_what_changes_nothing_emits_nothing():
    graph = Graph((3,))
    assert graph.x + np.zeros(3, np.int64) is graph.x
    assert graph.x * np.ones(3, np.int64) is graph.x
    assert graph.x.astype(np.int32) is graph.x
    assert graph.ops == []


def test_what_repeats_a_value_changes_it():
    graph = Graph((1, 3))
    result = graph.x + np.zeros((4, 3), np.int64)
    x = np.arange(6).reshape(2, 1, 3)
    assert np.array_equal(graph.run(result, x), np.repeat(x, 4, axis=1))


def test_scalar_bounds_are_one_node_and_arrays_two():
    graph = Graph((2,))
    SYMBOLIC.clip(graph.x, 0, 5)
    SYMBOLIC.clip(graph.x, np.array([0, 1]), np.array([5, 6]))
    assert graph.ops == ["Clip", "Max", "Min"]


def test_a_cast_is_shared():
    graph = Graph()
    graph.x.astype(np.uint8), graph.x.astype(np.uint8)
    assert graph.ops == ["Cast"]


@pytest.mark.parametrize(
    ("operate", "error", "message"),
    [
        (lambda x: x + 2**31, OverflowError, "constant 2147483648 does not fit int32"),
        (lambda x: x + 0.5, OverflowError, "constant 0.5 does not fit int32"),
        (lambda x: x + x.astype(UINT8), TypeError, "Add of int32 and uint8"),
        (lambda x: integers(x).not_equal(x & 3, 1), NotImplementedError, "compares with 0 only"),
        (lambda x: integers(x).not_equal(x & 2, 0), NotImplementedError, "mask 2 is not one of low bits"),
    ],
)
def test_what_has_no_integer_form_is_refused(operate: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        operate(Graph().x)
