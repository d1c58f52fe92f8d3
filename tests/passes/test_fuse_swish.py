import numpy as np
import pytest

from passes.fuse_swish import FuseSwish
from passes.remove_dead_code import RemoveDeadCode
from support.networks import build
from support.run import run

TEXT = "(float[N,8] x) => (float[N,8] y) {{ {} }}"


@pytest.mark.parametrize("order", ["x, g", "g, x"])
@pytest.mark.parametrize(
    ("gate", "op"), [("Sigmoid", "SiLU"), ("HardSigmoid<alpha = 0.1666666716, beta = 0.5>", "HardSwish")]
)
def test_a_value_times_its_own_gate_is_one_node(order, gate, op):
    model = build(TEXT.format(f"g = {gate}(x) y = Mul({order})"))
    x = np.linspace(-9, 9, 16, dtype=np.float32).reshape(2, 8)
    expected = run(model, x)[0]
    assert FuseSwish()(model).modified
    RemoveDeadCode()(model)
    assert [node.op_type for node in model.graph] == [op]
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(run(model, x)[0], expected, rtol=1e-6, atol=1e-6)
    assert not FuseSwish()(model).modified


def test_who_else_reads_the_gate_keeps_it():
    model = build(TEXT.format("g = Sigmoid(x) s = Mul(x, g) y = Add(s, g)"))
    assert FuseSwish()(model).modified
    RemoveDeadCode()(model)
    assert [node.op_type for node in model.graph] == ["Sigmoid", "SiLU", "Add"]


@pytest.mark.parametrize(
    "nodes",
    [
        "g = Sigmoid(x) z = Relu(x) y = Mul(z, g)",
        "g = HardSigmoid(x) y = Mul(x, g)",
        "g = Tanh(x) y = Mul(x, g)",
        "y = Mul(x, x)",
    ],
)
def test_other_products_stay(nodes):
    assert not FuseSwish()(build(TEXT.format(nodes))).modified
