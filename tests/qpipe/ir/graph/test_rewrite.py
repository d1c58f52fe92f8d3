"""What a pass asks of a graph that it rewrites node by node."""

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.ir.graph.rewrite import Steps, activation_behind, added_constant, only_reader, rewrite
from support.networks import build, integers, ops
from support.run import run_as_written


def test_each_node_is_tried_while_it_is_there() -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Relu(a) c = Neg(b) y = com.microsoft.Gelu(c) }")

    def skip_one(graph: ir.Graph, node: ir.Node) -> bool:
        follower = only_reader(node.outputs[0])
        assert follower is not None
        follower.outputs[0].replace_all_uses_with(node.outputs[0])
        graph.remove(follower, safe=True)
        return True

    assert rewrite(model, {"Relu", "Gelu"}, skip_one).modified
    assert ops(model) == ["Relu", "Neg", "Gelu"]
    assert not rewrite(model, {"Conv"}, skip_one).modified
    assert not rewrite(model, {"Relu", "Neg"}, lambda graph, node: False).modified


@pytest.mark.parametrize("operands", ["m, c", "c, m"])
def test_what_an_add_adds(operands: str) -> None:
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ m = Neg(x) y = Add({operands}) }}", c=integers(4))
    negate, add = model.graph
    match = added_constant(add)
    assert match is not None
    assert match[0] is negate
    np.testing.assert_array_equal(match[1], integers(4))


@pytest.mark.parametrize("body", ["m = Neg(x) y = Add(m, x)", "m = Neg(x) z = Relu(m) y = Add(m, c)", "y = Add(x, c)"])
def test_other_adds(body: str) -> None:
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ {body} }}", c=integers(4))
    assert added_constant(model.graph.node(len(model.graph) - 1)) is None


def test_what_reads_a_value_alone() -> None:
    model = build("(float[N,4] x) => (float[N,4] y, float[N,4] b) { a = Identity(x) b = Relu(a) y = Mul(b, b) }")
    same, relu, _ = model.graph
    assert activation_behind(same.outputs[0]) is relu
    assert activation_behind(model.graph.inputs[0]) is None
    assert only_reader(model.graph.inputs[0]) is same
    assert only_reader(relu.outputs[0]) is None


def test_steps_come_into_the_place_of_a_node() -> None:
    """A twice transposed negative, instead of a Neg: values, names and what was said of the result stay."""
    model = build("(float[N,2,3] x) => (float[N,2,3] y) { [was] y = Neg(x) }")
    (old,), x, batch = model.graph, model.graph.inputs[0], ir.SymbolicDim("N")
    steps = Steps(model.graph, old, x)
    steps.add("Transpose", "before", [], [batch, 3, 2], perm=[0, 2, 1])
    steps.add("Mul", "", [np.float32([-1, -1])], [batch, 3, 2])
    steps.add("Transpose", "behind", [], [batch, 2, 3], perm=[0, 2, 1])
    steps.replace()
    assert [(node.op_type, node.name) for node in model.graph] == [
        ("Transpose", "was_before"),
        ("Mul", "was"),
        ("Transpose", "was_behind"),
    ]
    given = integers(4, 2, 3)
    np.testing.assert_array_equal(run_as_written(model, x=given)[0], -given)
    (result,) = model.graph.outputs
    assert (result.name, result.shape) == ("y", ir.Shape(["N", 2, 3]))
    assert [str(node.outputs[0].shape) for node in model.graph] == ["[N,3,2]", "[N,3,2]", "[N,2,3]"]
