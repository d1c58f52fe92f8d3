import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import ModelError
from qpipe.ir.graph.ending import between, end_in, ending_in, remove_unused
from support.networks import Network, build, ops
from support.run import run


def network() -> tuple[ir.Model, list[np.ndarray]]:
    """Conv -> Relu -> Conv, and what `r_y`, behind the Relu, is for some inputs."""
    net = Network(3, 8, 8)
    net.op("Relu", net.conv("x", 3, 8, bias=True), name="r")
    model = net.model(net.conv("r_y", 8, 4))
    return model, [net.inputs(2)]


def test_a_copy_ends_in_the_values_that_are_asked_for() -> None:
    model, inputs = network()
    (output,) = [value.name for value in model.graph.outputs]
    both = ending_in(model, ["r_y", str(output)])
    assert [value.name for value in both.graph.outputs] == ["r_y", output]
    np.testing.assert_array_equal(run(both, *inputs)[1], run(model, *inputs)[0])
    short = ending_in(model, ["r_y"])
    assert [node.op_type for node in short.graph] == ["Conv", "Relu"]
    np.testing.assert_array_equal(run(short, *inputs)[0], run(both, *inputs)[0])
    assert [value.name for value in model.graph.outputs] == [output]


def test_a_value_of_unknown_type_is_float() -> None:
    model, _ = network()
    value = next(value for node in model.graph for value in node.outputs if value.name == "r_y")
    value.type = None
    end_in(model, [value])
    assert value.dtype == ir.DataType.FLOAT


def test_a_name_that_no_node_gives() -> None:
    model, _ = network()
    with pytest.raises(ModelError, match=r"^model '.*': no node gives 'x', expected it as an output$"):
        ending_in(model, ["r_y", "x"])


LOOP = """b = Neg(a) s = Loop<body = body (int64 i, bool go_on, float[4] v) => (bool go, float[4] w) {
    go = Identity(go_on) w = Loop<body = inner (int64 j, bool on, float[4] u) => (bool again, float[4] t) {
        again = Identity(on) t = Add(u, b) }>(three, flag, v) }>(three, flag, x)"""


def with_loop(outputs: str) -> ir.Model:
    """Nested loops of which the innermost reads what is computed of the input outside of both."""
    nodes = f"a = Abs(x) {LOOP} y = Relu(s) z = Neg(y)"
    return build(f"(float[4] x) => ({outputs}) {{ {nodes} }}", three=np.array(3), flag=np.array(True))


def test_what_a_loop_read_goes_with_it() -> None:
    model = with_loop("float[4] z")
    part = between(model, "y", "z")
    assert ops(part) == ["Neg"]
    assert not part.graph.initializers
    x = np.array([0.5, -1, 2, 0], np.float32)
    np.testing.assert_array_equal(run(part, x)[0], -x)


def test_a_loop_that_is_read_keeps_what_it_reads() -> None:
    model = with_loop("float[4] z")
    assert ops(ending_in(model, ["y"])) == ["Abs", "Neg", "Loop", "Relu"]
    assert ops(ending_in(model, ["b"])) == ["Abs", "Neg"]


def test_nodes_that_are_still_to_be_put_in_keep_what_they_read() -> None:
    model = with_loop("float[4] z")
    value = next(node.outputs[0] for node in model.graph if node.op_type == "Abs")
    pending = ir.node("Sqrt", [value])
    end_in(model, [model.graph.node(0).outputs[0]])
    assert list(pending.inputs) == [value]
    remove_unused(model)
    assert ops(model) == ["Abs"]
