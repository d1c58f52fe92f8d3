"""What is added to something much larger gets steps that a sum of integers can reach over."""

import numpy as np
import pytest

import qpipe
from passes.quantizing.calibrate_percentile import CalibratePercentile
from passes.quantizing.insert_quantizers import InsertQuantizers
from passes.shipping.lower_integer import LowerInteger
from passes.shipping.lower_qoperator import LowerQOperator
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from support.networks import Network, build
from support.quantize import finalized, quantized
from support.run import run


@pytest.mark.parametrize("op_type", ["Add", "Sub"])
@pytest.mark.parametrize("is_moved", [False, True])
def test_a_branch_that_adds_next_to_nothing(op_type: str, is_moved: bool) -> None:
    net = Network(3, 8, 8)
    skip = net.op("Relu", net.conv("x", 3, 3))
    small = net.op("Conv", skip, net.constant(net.floats(3, 3, 1, 1, scale=1e-6)))
    if is_moved:
        small = net.op("Transpose", net.op("Transpose", small, perm=[0, 1, 3, 2]), perm=[0, 1, 3, 2])
    total = net.op(op_type, skip, small, name="sum")
    model = net.model(net.head(net.op("Relu", net.conv(total, 3, 8)), 8))
    spec = finalized(quantized(model))
    (layer,) = (layer for layer in read_view(spec).layers if layer.name == "sum")
    exponents = [quantizer.grid.exponent for quantizer in layer.sources]
    assert max(exponents) - min(exponents) == 15
    for lowering in (LowerInteger(), LowerQOperator()):
        lowered = spec.clone()
        lowering(lowered)
        run_gate(spec, lowered)


def test_grids_that_are_near_stay() -> None:
    net = Network(3, 8, 8)
    skip = net.op("Relu", net.conv("x", 3, 3))
    small = net.op("Conv", skip, net.constant(net.floats(3, 3, 1, 1, scale=0.01)))
    model = net.model(net.head(net.op("Relu", net.conv(net.op("Add", skip, small), 3, 8)), 8))
    before = model.clone()
    CalibratePercentile(inputs=[net.inputs()])(model)
    ranges = {value.name: dict(value.metadata_props) for node in model.graph for value in node.outputs}
    InsertQuantizers()(model)
    assert ranges
    np.testing.assert_array_equal(run(model, net.inputs())[0], run(quantized(before), net.inputs())[0])


def test_scores_near_0_before_a_mask() -> None:
    """As a language model's are before it is trained: nothing is refused, and the mask masks."""
    rng = np.random.default_rng(0)
    mask = np.where(np.tril(np.ones((8, 8), bool)), 0, -np.inf).astype(np.float32)
    w, small = rng.standard_normal((8, 8)).astype(np.float32), rng.standard_normal((8, 8)).astype(np.float32) * 1e-4
    model = build(
        """(float[N,8,8] x) => (float[] y) { a = MatMul(x, small) s = Add(a, mask) p = Softmax<axis = -1>(s)
        y = MatMul(p, w) }""",
        w=w, small=small, mask=mask,
    )  # fmt: skip
    x = rng.standard_normal((16, 8, 8)).astype(np.float32)
    with pytest.warns(UserWarning, match="signal to noise of 'a'"):
        network = qpipe.calibrate(model, x)
    found = run(finalized(network), x)[0]
    # Equal scores: means over what is not masked, of rows of a matrix, by Softmax's 8 bits.
    expected = np.cumsum(w, axis=0) / np.arange(1, 9)[:, None]
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=0, atol=0.1)
