"""What nodes say of themselves is read where it is true, and refused in one line where it is not."""

import json

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import ModelError
from qpipe.ir.quantized.notes import BASIS, BOUND, FUNCTION
from qpipe.ir.quantized.view import read_view
from support.networks import Network
from support.quantize import quantized


def network(activation: str, **options: object) -> ir.Model:
    net = Network(3, 6, 6)
    x = net.conv("x", 3, 4)
    x = net.relu6(x, 1.5) if activation == "Clip" else net.op(activation, net.norm(x, 4))
    return quantized(net.model(net.head(net.op("Relu", net.norm(net.conv(x, 4, 4), 4)), 4)), net.inputs(8), **options)


def noted(model: ir.Model, key: str) -> ir.Node:
    return next(node for node in model.graph if key in node.metadata_props)


def edited(model: ir.Model, key: str, value: object) -> ir.Model:
    noted(model, key).metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    return model


@pytest.mark.parametrize("value", [
    -1, "[", "[" * 5000, True, {}, [], [None], ["a"], [1e400], [10**400], [1.0] * 50, [[1.0]], [0.5, 0.25], None,
])  # fmt: skip
def test_a_basis_that_is_not_the_tables(value):
    model = network("Relu", quantizer="lq", bits=2)
    with pytest.raises(ModelError, match=r"GatherElements '.*': (metadata 'qpipe\.basis'|its table is none of)"):
        read_view(edited(model, BASIS, "null " * 2 if value is None else value))


def test_a_basis_that_is_the_tables():
    layers = read_view(network("Relu", quantizer="lq", bits=2)).layers
    assert any(layer.quantizer.basis for layer in layers if layer.quantizer is not None)


@pytest.mark.parametrize("value", [-1, 0, "[", True, "NaN", [6.0], "six"])
def test_a_bound_that_is_none(value):
    with pytest.raises(ModelError, match=r"QuantizeLinear '.*': metadata 'qpipe\.bound'"):
        read_view(edited(network("Clip"), BOUND, value))


@pytest.mark.parametrize("said", [
    5, "{", {}, {"op": "HardSwish"}, {"op": 3, "domain": ""}, {"op": "Relu", "domain": ""},
    {"op": "Sigmoid", "domain": ""}, {"op": "LeakyRelu", "domain": "", "alpha": "x"},
    {"op": "LeakyRelu", "domain": "", "alpha": 1e400}, {"op": "HardSwish", "domain": "evil"},
])  # fmt: skip
def test_a_function_that_is_not_the_tables(said):
    with pytest.raises(ModelError, match=r"GatherElements '.*': (metadata 'qpipe\.function'|its table is none of)"):
        read_view(edited(network("HardSwish"), FUNCTION, said))


@pytest.mark.parametrize("activation", ["HardSwish", "Sigmoid", "LeakyRelu", "Tanh", "HardSigmoid"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_function_that_is_the_tables(activation, bits):
    layer = read_view(network(activation, bits=bits)).layers[0]
    assert layer.function.op_type == activation


def test_entries_that_were_changed():
    model = network("HardSwish")
    entries = noted(model, FUNCTION).inputs[0]
    array = entries.const_value.numpy().copy()
    array[:] = np.roll(array, 40)
    entries.const_value = ir.tensor(array, name=entries.name)
    with pytest.raises(ModelError, match=r"its table is none of|expected codes from"):
        read_view(model)
