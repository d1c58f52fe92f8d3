"""The proof that a graph has no float inside, and that the proof notices one."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from passes.shipping.lower_integer import LowerInteger
from qpipe.data import Preprocess
from qpipe.data.carried import store_preprocess
from qpipe.ir.quantized.float_free import float_tensors
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import initializer
from support.networks import build, integers
from support.quantize import finalized, quantized, to_qoperator
from support.zoo.residual import residual_network


@pytest.fixture
def integer_model() -> ir.Model:
    model = finalized(quantized(residual_network()))
    LowerInteger()(model)
    return model


def inner_value(model: ir.Model) -> ir.Value:
    """A uint8 tensor in the middle of the graph."""
    inner = [value for node in model.graph for value in node.outputs if value.dtype == ir.DataType.UINT8]
    return inner[len(inner) // 2]


def detour(model: ir.Model, *nodes: ir.Node) -> None:
    """Let everything that reads the tensor in the middle read it through these nodes."""
    value = inner_value(model)
    uses = list(value.uses())
    nodes[0].replace_input_with(0, value)
    for node, index in uses:
        node.replace_input_with(index, nodes[-1].outputs[0])
    model.graph.insert_after(value.producer(), list(nodes))


def node_of(op_type: str, inputs: list[ir.Value | None], name: str, dtype: ir.DataType | None, **attributes) -> ir.Node:
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = None if dtype is None else ir.TensorType(dtype)
    return node


def through_float(model: ir.Model, dtype: ir.DataType = ir.DataType.FLOAT) -> None:
    there = node_of("Cast", [None], "sneaked", dtype, to=dtype)
    detour(model, there, node_of("Cast", [there.outputs[0]], "back", ir.DataType.UINT8, to=ir.DataType.UINT8))


def through_quantizers(model: ir.Model) -> None:
    scale, zero = (
        initializer(model.graph, "s", np.array(0.5, np.float32)),
        initializer(model.graph, "z", np.array(0, np.uint8)),
    )
    there = node_of("DequantizeLinear", [None, scale, zero], "sneaked", ir.DataType.FLOAT)
    detour(model, there, node_of("QuantizeLinear", [there.outputs[0], scale, zero], "back", ir.DataType.UINT8))


def through_unknown(model: ir.Model) -> None:
    detour(model, node_of("Identity", [None], "sneaked", None))


def with_attribute(value: object) -> Callable[[ir.Model], None]:
    def sneak(model: ir.Model) -> None:
        detour(model, node_of("Identity", [None], "node", ir.DataType.UINT8, sneaked=value))

    return sneak


def test_an_integer_graph_has_none(integer_model):
    assert {value.dtype for node in integer_model.graph for value in node.outputs} >= {
        ir.DataType.UINT8,
        ir.DataType.INT32,
    }
    assert float_tensors(integer_model) == []


def test_a_graph_of_pixels_has_none_at_all():
    model = finalized(quantized(residual_network()))
    store_preprocess(model, Preprocess())
    LowerInteger(io="integer")(model)
    assert float_tensors(model) == []
    values = [
        *model.graph.inputs,
        *model.graph.initializers.values(),
        *(v for node in model.graph for v in node.outputs),
    ]
    assert {value.dtype for value in values} & {ir.DataType.FLOAT, ir.DataType.DOUBLE, None} == set()


@pytest.mark.parametrize(
    ("sneak", "name"),
    [
        (through_float, "sneaked"),
        (lambda model: through_float(model, ir.DataType.FLOAT16), "sneaked"),
        (lambda model: through_float(model, ir.DataType.DOUBLE), "sneaked"),
        (lambda model: through_float(model, ir.DataType.BFLOAT16), "sneaked"),
        (through_quantizers, "sneaked"),
        (through_unknown, "sneaked"),
        (with_attribute(0.5), "node.sneaked"),
        (with_attribute([0.5, 1.0]), "node.sneaked"),
        (with_attribute(ir.tensor(np.zeros(2, np.float32))), "node.sneaked"),
    ],
)
def test_a_float_that_is_sneaked_in_is_named(integer_model, sneak, name):
    sneak(integer_model)
    assert name in float_tensors(integer_model)


def test_a_float_initializer_is_named(integer_model):
    scale = initializer(integer_model.graph, "sneaked", np.array(0.5, np.float32))
    detour(integer_model, node_of("Where", [None, scale], "where", ir.DataType.UINT8))
    assert float_tensors(integer_model) == ["sneaked"]


def test_the_ends_and_the_tail_may_be_float(integer_model):
    graph = integer_model.graph
    tail = node_of("Softmax", [graph.outputs[0]], "probabilities", ir.DataType.FLOAT, axis=1)
    graph.append(tail)
    graph.outputs[0] = tail.outputs[0]
    assert float_tensors(integer_model) == []


def test_the_other_formats_are_not_float_free():
    spec = finalized(quantized(residual_network()))
    qoperator = to_qoperator(spec)
    assert any("scale" in name for name in float_tensors(qoperator))
    assert any("dequantized" in name for name in float_tensors(spec))


def test_a_tail_that_counts_is_no_float_inside_once_it_is_named() -> None:
    """Its Cast gives integers, which are none of the network's."""
    nodes = "[a] c = Conv(x, w) [s] n = Shape(c) [f] m = Cast<to=1>(n) [i] k = Cast<to=7>(m) [t] y = Tile(c, k)"
    model = finalized(quantized(build(f"(float[N,3,6,6] x) => (float[] y) {{ {nodes} }}", w=integers(3, 3, 1, 1))))
    tail = {node.name for layer in read_view(model).tail for node in layer.nodes}
    LowerInteger()(model)
    assert float_tensors(model, tail) == []
