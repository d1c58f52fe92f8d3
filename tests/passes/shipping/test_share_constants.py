import numpy as np
import onnx_ir as ir
import pytest

from passes.shipping.share_constants import ShareConstants
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from support.networks import build, integers
from support.quantize import finalized, quantized
from support.run import run_as_written
from support.zoo.residual import residual_network


def names(model: ir.Model) -> set[str]:
    return set(model.graph.initializers)


def test_equal_numbers_become_one():
    model = build(
        "(float[N,4] x) => (float[N,4] y) { s = Mul(x, a) t = Mul(s, b) u = Add(t, v) y = Sub(u, w) }",
        a=np.float32(2), b=np.float32(2), v=np.zeros(4, np.float32), w=np.zeros(4, np.float32),
    )  # fmt: skip
    x = integers(2, 4)
    expected = run_as_written(model, x=x)[0]
    assert ShareConstants()(model).modified
    assert names(model) == {"float32_2.0", "float32_0.0x4"}
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not ShareConstants()(model).modified


def test_what_differs_stays():
    """Another type, another shape, several numbers, a matrix."""
    model = build(
        """(float[N,4] x) => (float[N,4] y, int64[1] i) {
            s = Mul(x, a) t = Mul(s, b) u = Mul(t, c) i = Neg(d) y = Mul(u, e) }""",
        a=np.float32(2),
        b=np.float32([2]),
        c=np.float32([1, 2, 3, 4]),
        d=np.array([2]),
        e=np.full((1, 4), 2, np.float32),
    )
    assert not ShareConstants()(model).modified
    assert names(model) == {"a", "b", "c", "d", "e"}


def test_an_output_keeps_its_name():
    two = np.float32(2)
    model = build("(float[N] x) => (float[N] y, float a) { s = Mul(x, a) y = Mul(s, b) }", a=two, b=two)
    assert not ShareConstants()(model).modified


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_quantized_graph_computes_the_same_integers(bits):
    spec = finalized(quantized(residual_network(), bits=bits))
    model = spec.clone()
    ShareConstants()(model)
    assert len(names(model)) <= len(names(spec)) - 8
    assert read_view(model).is_final
    run_gate(spec, model)
