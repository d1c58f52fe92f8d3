"""Quantizers as nodes: written, read back, and refused where they are of another form."""

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable, table_index
from qpipe.errors import ModelError
from qpipe.ir.quantized.qdq import insert_activation_quantizer, read_activation_quantizer
from qpipe.nodes import initializer, replace_constant
from support.networks import Network
from support.run import run

SPECS = [QuantSpec.unsigned(8, -5), QuantSpec.unsigned(4, -2), QuantSpec.signed(8, -5), QuantSpec.signed(2, 1),
         QuantSpec(-5, 0, 192)]  # fmt: skip


def negation() -> tuple[Network, ir.Model]:
    net = Network(3, 4)
    return net, net.model(net.op("Neg", "x", name="neg"))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("where", ["input", "output"])
def test_it_is_the_definition_and_reads_back(spec: QuantSpec, where: str) -> None:
    net, model = negation()
    value = model.graph.inputs[0] if where == "input" else model.graph.outputs[0]
    insert_activation_quantizer(model.graph, value, spec)
    ir.passes.common.CheckerPass()(model)
    found = [read_activation_quantizer(node) for node in model.graph if node.op_type == "DequantizeLinear"]
    assert [q.grid for q in found if q is not None] == [spec]
    x = net.inputs(50, scale=8)
    expected = -dequantize(quantize(x, spec), spec) if where == "input" else dequantize(quantize(-x, spec), spec)
    np.testing.assert_array_equal(run(model, x)[0], expected)
    assert model.graph.outputs[0].name == "neg_y"


def test_only_one_reader() -> None:
    net = Network(3, 4)
    model = net.model(net.op("Neg", "x", name="a"), net.op("Neg", "x", name="b"))
    reader = model.graph.node(0)
    insert_activation_quantizer(model.graph, model.graph.inputs[0], SPECS[2], only=[reader], suffix="a")
    producers = [node.inputs[0].producer() for node in model.graph if node.op_type == "Neg"]  # type: ignore[union-attr]
    assert [None if p is None else p.op_type for p in producers] == ["DequantizeLinear", None]


def test_names_of_initializers_are_unique() -> None:
    _, model = negation()
    first = initializer(model.graph, "c", np.float32(1))
    second = initializer(model.graph, "c", np.float32(2))
    assert (first.name, second.name) == ("c", "c_1")
    assert {"c", "c_1"} <= set(model.graph.initializers)


@pytest.mark.parametrize(
    ("zero_point", "scale", "message"),
    [
        (np.uint8(3), np.float32(1), "QuantizeLinear 'q': zero point 3, expected an even one"),
        (
            np.int8(0),
            np.float32(1),
            "QuantizeLinear 'q': expected one constant scale and a zero point of uint8 or uint16",
        ),
        (None, np.float32(1), "QuantizeLinear 'q': expected one constant scale and a zero point of uint8 or uint16"),
        (
            np.zeros(3, np.uint8),
            np.ones(3, np.float32),
            "QuantizeLinear 'q': expected one constant scale and a zero point of uint8 or uint16",
        ),
        (np.uint8(0), np.float32(0.3), "DequantizeLinear 'd': scale 0.3, expected a power of two"),
    ],
)
def test_other_forms(zero_point: np.ndarray | None, scale: np.ndarray, message: str) -> None:
    _, model = negation()
    values = [initializer(model.graph, "s", np.asarray(scale))]
    if zero_point is not None:
        values.append(initializer(model.graph, "z", np.asarray(zero_point)))
    quantizer = ir.node("QuantizeLinear", [model.graph.inputs[0], *values], name="q")
    back = ir.node("DequantizeLinear", [quantizer.outputs[0], *values], name="d")
    model.graph.insert_before(model.graph[0], [quantizer, back])
    with pytest.raises(ModelError, match=f"^{message}"):
        read_activation_quantizer(back)


def table_of(after: QuantSpec) -> CodeTable:
    before = QuantSpec.signed(4, -1)
    return CodeTable(before, after, tuple(np.linspace(after.stored_min, after.stored_max, 256).astype(int).tolist()))


@pytest.mark.parametrize("after", [QuantSpec.unsigned(8, -3), QuantSpec.signed(8, -4), QuantSpec(-2, -3, 50, 128)])
def test_a_table_reads_back(after: QuantSpec) -> None:
    table = table_of(after)
    net, model = negation()
    insert_activation_quantizer(model.graph, model.graph.inputs[0], table)
    ir.passes.common.CheckerPass()(model)
    quantizer = read_activation_quantizer(next(node for node in model.graph if node.op_type == "DequantizeLinear"))
    assert quantizer is not None
    assert (quantizer.grid_or_table, quantizer.grid, quantizer.rounded_to) == (table, after, table.rounded_to)
    x = net.inputs(50, scale=8)
    np.testing.assert_array_equal(run(model, x)[0], -table.levels()[table_index(x, table.rounded_to)])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (np.zeros(256, np.uint8), "entry 0 of a table, expected codes from 121 to 135"),
        (np.zeros(9, np.uint8), "expected a constant table of 256 uint8 codes"),
        (np.zeros(256, np.int8), "expected a constant table of 256 uint8 codes"),
    ],
)
def test_other_tables(entries: np.ndarray, message: str) -> None:
    _, model = negation()
    insert_activation_quantizer(model.graph, model.graph.inputs[0], table_of(QuantSpec.signed(4, 0)))
    gather = next(node for node in model.graph if node.op_type == "GatherElements")
    clip = next(node for node in model.graph if node.name == "x_level_clip")
    assert clip.op_type == "Clip"
    replace_constant(gather.inputs[0], entries)
    with pytest.raises(ModelError, match=f"GatherElements 'x_look_up': {message}"):
        read_activation_quantizer(next(node for node in model.graph if node.op_type == "DequantizeLinear"))
