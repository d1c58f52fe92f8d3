import numpy as np
import pytest

from passes.quantizing.calibrate_percentile import RANGE_KEY, CalibratePercentile, take_range
from qpipe.errors import DataError, ModelError
from support.networks import Network, build
from support.run import run


def network() -> tuple[Network, str]:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8), name="a")
    x = net.op("Relu", net.norm(net.conv(x, 8, 8), 8), name="b")
    return net, net.head(x, 8)


@pytest.mark.parametrize("given", [None, 97.0])
def test_every_planned_tensor_gets_its_range(given: float | None) -> None:
    net, y = network()
    model = net.model(y)
    batches = [net.inputs(seed=s) for s in (1, 2)]
    result = CalibratePercentile(inputs=batches, activation_bits=4, percentile=given)(model)
    assert result.modified
    a = next(node for node in model.graph if node.name == "a").outputs[0]
    seen = net.model(y)
    seen.graph.outputs.insert(0, next(node for node in seen.graph if node.name == "a").outputs[0])
    ymax = max(np.percentile(run(seen, b)[0], given or 99.9, method="inverted_cdf") for b in batches)
    assert take_range(a).ymax == pytest.approx(ymax, rel=1e-6)
    assert take_range(model.graph.inputs[0]).is_negative
    # The last layer's output has no quantizer.
    assert RANGE_KEY not in model.graph.outputs[0].metadata_props


def test_a_range_is_taken_once() -> None:
    net, y = network()
    model = net.model(y)
    CalibratePercentile(inputs=[net.inputs()])(model)
    take_range(model.graph.inputs[0])
    with pytest.raises(ModelError, match="tensor 'x' has no observed range; run calibrate-percentile first"):
        take_range(model.graph.inputs[0])


TWO_INPUTS = "(float[N,4] x, float[N,4] z) => (float[N,4] y) { a = Gemm(x, w) b = Gemm(z, w) y = Add(a, b) }"


def test_each_of_two_inputs_gets_its_range() -> None:
    model = build(TWO_INPUTS, w=np.eye(4, dtype=np.float32))
    data = {"x": np.full((5, 4), 3, np.float32), "z": np.full((5, 4), -2, np.float32)}
    CalibratePercentile(inputs=[data])(model)
    found = [take_range(value) for value in model.graph.inputs]
    assert [(each.ymax, each.is_negative) for each in found] == [(3.0, False), (2.0, True)]


def test_one_array_for_two_inputs_is_refused() -> None:
    model = build(TWO_INPUTS, w=np.eye(4, dtype=np.float32))
    with pytest.raises(DataError, match="inputs are 'x', 'z', the data have one array; expected one by each name"):
        CalibratePercentile(inputs=[np.ones((5, 4), np.float32)])(model)
    with pytest.raises(DataError, match="no data for input 'z', expected 'x', 'z', found 'x'"):
        CalibratePercentile(inputs=[{"x": np.ones((5, 4), np.float32)}])(model)
