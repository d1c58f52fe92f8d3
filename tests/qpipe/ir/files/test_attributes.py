"""Attributes that onnxruntime refuses, or that make every number NaN, are refused by node and name."""

import math
from pathlib import Path

import onnx
import pytest
from onnx import helper

from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from support.networks import parse


def network(call: str = "LeakyRelu<alpha=0.5>(x)") -> onnx.ModelProto:
    return parse(f"(float[N,4] x) => (float[N,4] y) {{ [n] y = {call} }}")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none(number: float) -> None:
    model = network()
    model.graph.node[0].attribute[0].f = number
    with pytest.raises(ModelError, match="LeakyRelu 'n': attribute 'alpha' is NaN or infinite"):
        load_model(model)


def test_a_bound_may_be_infinite() -> None:
    model = parse("(float[N,4] x) => (float[N,4] y) { y = Clip<min=0.0, max=6.0>(x) }", opsets='"": 7')
    model.graph.node[0].attribute[1].f = math.inf
    assert load_model(model).graph.outputs
    model.graph.node[0].attribute[1].f = math.nan
    with pytest.raises(ModelError, match="attribute 'max' is NaN"):
        load_model(model)


def test_a_value_of_another_type() -> None:
    model = network("Softmax<axis=1>(x)")
    model.graph.node[0].attribute[0].floats.append(1)
    with pytest.raises(ModelError, match="Softmax 'n': attribute 'axis' is of type INT, but holds floats, i"):
        load_model(model)


def test_nodes_of_functions_are_looked_at() -> None:
    text = '<domain: "own", opset_import: ["": 21]> f (a) => (b) { [in] b = Elu<alpha=1.0>(a) }'
    model = parse(f"(float[N,4] x) => (float[N,4] y) {{ y = own.f(x) }} {text}", opsets='"": 21, "own": 1')
    assert load_model(model).functions
    model.functions[0].node[0].attribute[0].CopyFrom(helper.make_attribute("alpha", math.inf))
    with pytest.raises(ModelError, match="Elu 'in': attribute 'alpha'"):
        load_model(model)


def test_one_that_stands_twice():
    model = network()
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    with pytest.raises(ModelError, match="LeakyRelu 'n': attribute 'alpha' is there 2 times, expected once"):
        load_model(model)


def test_a_name_that_is_no_text(tmp_path: Path):
    """One damaged byte: protobuf gives bytes where it should give a text."""
    path = tmp_path / "net.onnx"
    path.write_bytes(network().SerializeToString().replace(b"alpha", b"al\xb1ha"))
    with pytest.raises(ModelError, match=r"net\.onnx: invalid ONNX model: "):
        load_model(path)
