"""Passes that lean on onnx_ir: lifted constants, dead code, names, functions, zero biases."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.rewrites.constants_to_initializers import ConstantsToInitializers
from passes.rewrites.inline_functions import InlineFunctions
from passes.rewrites.name_nodes import NameNodes
from passes.rewrites.remove_dead_code import RemoveDeadCode
from passes.rewrites.remove_zero_bias import RemoveZeroBias
from support.networks import build, integers, ops, parse
from support.run import run_as_written


@pytest.mark.parametrize(
    "constant", ["value_float = 2.0", "value_floats = [2.0]", "value = float[1] {2.0}", "value = float {2.0}"]
)
def test_constants_become_initializers(constant):
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ c = Constant <{constant}> () y = Mul(x, c) }}")
    assert ConstantsToInitializers()(model).modified
    assert ops(model) == ["Mul"]
    assert list(model.graph.initializers) == ["c"]
    x = integers(2, 4)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], 2 * x)
    assert not ConstantsToInitializers()(model).modified


def test_constant_that_is_an_output_stays():
    model = build("(float[N] x) => (float[N] y, float c) { y = Relu(x) c = Constant <value_float = 2.0> () }")
    assert not ConstantsToInitializers()(model).modified


def test_dead_code_goes():
    model = build(
        "(float[N,4] x, float[N] unused) => (float[N,4] y) { a = Neg(x) b = Relu(a) y = Relu(x) }", w=integers(3)
    )
    assert RemoveDeadCode()(model).modified
    assert ops(model) == ["Relu"]
    assert not model.graph.initializers
    assert dict(model.opset_imports) == {"": 21}
    assert [value.name for value in model.graph.inputs] == ["x", "unused"]
    assert not RemoveDeadCode()(model).modified


def test_what_the_branches_of_dead_code_read_goes():
    model = build(
        "(float[N,4] x, bool q) => (float[N,4] y) { a = Neg(x) b = If(q) <then_branch = t () => (float[N,4] c) "
        "{ c = Relu(a) }, else_branch = e () => (float[N,4] d) { d = Abs(a) }> y = Relu(x) }"
    )
    assert RemoveDeadCode()(model).modified
    assert ops(model) == ["Relu"]
    assert not RemoveDeadCode()(model).modified


def test_an_optional_output_that_nobody_reads_counts_as_a_change():
    model = build("(float[N,4] x) => (float[N,4] y) { y, mask = Dropout(x) }")
    RemoveDeadCode()(build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
    assert RemoveDeadCode()(model).modified
    assert len(model.graph.node(0).outputs) == 1
    assert not RemoveDeadCode()(model).modified


def test_live_code_stays():
    model = build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    assert not RemoveDeadCode()(model).modified


def test_unnamed_nodes_are_named_after_their_output():
    model = build("(float[N,4] x) => (float[N,4] y) { z = Relu(x) y = Neg(z) }")
    model.graph.node(1).name = "mine"
    assert NameNodes()(model).modified
    assert [node.name for node in model.graph] == ["Relu_z", "mine"]
    assert not NameNodes()(model).modified


def test_shared_names_are_told_apart():
    model = build("(float[N,4] x) => (float[N,4] y) { z = Relu(x) y = Neg(z) }")
    for node in model.graph:
        node.name = "same"
    assert NameNodes()(model).modified
    assert [node.name for node in model.graph] == ["same", "same_1"]


FUNCTION = """(float[N,4] x) => (float[N,4] y) {{ y = {domain}.twice(x) }}
<domain: "{domain}", opset_import: ["": 21]> twice (a) => (b) {{ b = Add(a, a) }}"""


@pytest.mark.parametrize("domain", ["other", "qpipe"])
def test_functions_are_inlined(domain):
    """Whatever their domain: of what is our own see `tests/qpipe/ir/graph/test_functions.py`."""
    model = ir.from_proto(parse(FUNCTION.format(domain=domain), opsets=f'"": 21, "{domain}": 1'))
    assert InlineFunctions()(model).modified
    assert ops(model) == ["Add"]
    x = integers(2, 4)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], 2 * x)
    assert not InlineFunctions()(model).modified


CONV = "(float[N,3,4,4] x) => (float[N,2,4,4] y) { y = Conv(x, w, b) }"


def test_zero_bias_goes():
    model = build(CONV, w=integers(2, 3, 1, 1), b=np.zeros(2, np.float32))
    model.graph.node(0).name = "conv"
    x = integers(2, 3, 4, 4)
    expected = run_as_written(model, x=x)[0]
    assert RemoveZeroBias()(model).modified
    assert len(model.graph.node(0).inputs) == 2
    assert model.graph.node(0).name == "conv"
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not RemoveZeroBias()(model).modified


def test_other_bias_stays():
    bias = np.array([0, 2.0**-126], np.float32)
    assert not RemoveZeroBias()(build(CONV, w=integers(2, 3, 1, 1), b=bias)).modified


def test_computed_bias_stays():
    model = build("(float[N,3,4,4] x, float[2] b) => (float[N,2,4,4] y) { y = Conv(x, w, b) }", w=integers(2, 3, 1, 1))
    assert not RemoveZeroBias()(model).modified
