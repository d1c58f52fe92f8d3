import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import ModelError
from qpipe.ir.graph.ending import end_in, ending_in
from support.networks import Network
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
