import numpy as np
import onnx_ir as ir
import pytest

from passes.calibrate_percentile import RANGE_KEY, CalibratePercentile, take_range
from qpipe.errors import ModelError
from support.networks import Network
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


def test_two_inputs_are_refused() -> None:
    net, y = network()
    model = net.model(y)
    model.graph.inputs.append(ir.val("other"))
    with pytest.raises(ModelError, match=r"the network's inputs are .*: expected exactly one"):
        CalibratePercentile(inputs=[net.inputs()])(model)
