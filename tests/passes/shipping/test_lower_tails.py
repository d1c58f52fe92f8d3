"""What follows the last layer in float, in both lowerings."""

import numpy as np
import pytest

from passes.shipping.lower_integer import LowerInteger
from passes.shipping.lower_qoperator import LowerQOperator
from qpipe.ir.quantized.float_free import float_tensors
from qpipe.runtime.gate import run_gate
from support.networks import Weights, float_model
from support.quantize import finalized, quantized
from support.run import run

IMAGE = (3, 8, 8)


@pytest.mark.parametrize("lowering", [LowerInteger(), LowerQOperator()], ids=lambda lowering: lowering.name)
@pytest.mark.parametrize("channels", [5, 1])
@pytest.mark.parametrize(
    "tail",
    [
        ["y = Reshape(l, sizes)"],
        ["s = Squeeze(l, last)", "y = Squeeze(s, last)"],
        ["t = Transpose<perm=[0,2,3,1]>(l)", "y = Reshape(t, sizes)"],
        ["s = Reshape(l, sizes)", "y = Add(s, s)"],
        ["k = Conv(r, w3)", "a = Reshape(l, sizes)", "b = Reshape(k, sizes)", "y = Concat<axis=0>(a, b)"],
    ],
    ids=["reshape", "squeeze", "transpose", "reshape and more", "two heads"],
)
def test_a_tail_that_shapes_what_the_last_layer_gives(
    tail: list[str], channels: int, lowering: LowerInteger | LowerQOperator
) -> None:
    """onnxruntime would push a DequantizeLinear of one scale through it, and not open what comes of that."""
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", channels, 4, 1, 1)
    w.normal("w3", channels, 4, 3, 3)
    w.constants |= {"sizes": np.array([-1, channels]), "last": np.array([-1])}
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "g = GlobalAveragePool(r)", "l = Conv(g, w2)", *tail]
    spec = finalized(quantized(float_model("net", IMAGE, nodes, **w.constants)))
    model = spec.clone()
    lowering(model)
    inputs = np.random.default_rng(0).standard_normal((2, *IMAGE)).astype(np.float32)
    np.testing.assert_array_equal(run(model, inputs)[0], run(spec, inputs)[0])
    run_gate(spec, model)
    if isinstance(lowering, LowerInteger):
        assert float_tensors(model) == []
