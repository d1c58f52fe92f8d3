"""Bounds behind the last weights that onnxruntime would not leave in integers."""

import numpy as np
import pytest

from passes.shipping.finalize import Finalize
from passes.shipping.lower_integer import LowerInteger
from passes.shipping.lower_qoperator import LowerQOperator
from qpipe.runtime.gate import run_gate
from support.networks import Weights, float_model, ops
from support.quantize import finalized, quantized
from support.run import run

BODY = ["c = Conv(x, w1)", "r = Relu(c)", "g = GlobalAveragePool(r)", "f = Flatten(g)"]
BOUNDS = {
    "both": ("b = Clip(l, low, high)", ["Max", "Min"]),
    "low": ("b = Clip(l, low)", ["Max"]),
    "high": ("b = Clip(l, , high)", ["Min"]),
    "none": ("b = Clip(l)", []),
}


@pytest.mark.parametrize("lowering", [LowerInteger(), LowerQOperator()], ids=lambda lowering: lowering.name)
@pytest.mark.parametrize(("bound", "left"), BOUNDS.values(), ids=list(BOUNDS))
@pytest.mark.parametrize("product", ["l = Gemm(f, w2, bias)", "l = MatMul(f, w2)"], ids=["Gemm", "MatMul"])
def test_what_is_bounded_before_more(
    product: str, bound: str, left: list[str], lowering: LowerInteger | LowerQOperator
) -> None:
    """As a policy's deviation: `exp(clamp(l, -5, 2))`."""
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 4, 5)
    w.constants |= {"bias": np.linspace(-1, 1, 5, dtype=np.float32)} if "bias" in product else {}
    w.constants |= {name: np.float32(number) for name, number in (("low", -0.5), ("high", 0.25)) if name in bound}
    nodes = [
        "c = Conv(x, w1)",
        "r = Relu(c)",
        "g = GlobalAveragePool(r)",
        "f = Flatten(g)",
        product,
        bound,
        "y = Exp(b)",
    ]
    spec = finalized(quantized(float_model("net", (3, 8, 8), nodes, **w.constants)))
    assert ops(spec)[-1 - len(left) :] == [*left, "Exp"]
    assert not Finalize()(spec).modified
    model = spec.clone()
    lowering(model)
    inputs = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(model, inputs)[0], run(spec, inputs)[0])
    run_gate(spec, model)


def test_a_bound_that_is_the_output_stays() -> None:
    """There onnxruntime's kernel is of integers."""
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 4, 5)
    nodes = [*BODY, "l = Gemm(f, w2)"]
    w.constants["low"] = np.float32(-0.5)
    spec = finalized(quantized(float_model("net", (3, 8, 8), [*nodes, "y = Clip(l, low)"], **w.constants)))
    assert ops(spec)[-1] == "Clip"
    model = spec.clone()
    LowerQOperator()(model)
    run_gate(spec, model)
