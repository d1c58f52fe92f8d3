import numpy as np
import pytest

from passes.quantizing.calibrate_percentile import RANGE_KEY, CalibratePercentile, take_range
from passes.quantizing.fix_ranges import FixRanges, fixed_range
from passes.quantizing.insert_quantizers import InsertQuantizers
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.view import read_view
from support.networks import Network


def network() -> tuple[Network, str]:
    net = Network(3, 8, 8)
    a = net.op("Relu", net.conv(net.op("AveragePool", "x", kernel_shape=[2, 2], name="shrink"), 3, 8), name="a")
    x = net.op("Relu", net.op("Add", net.norm(net.conv(a, 8, 8, name="branch"), 8), a), name="b")
    return net, net.head(net.op("Relu", net.conv(x, 8, 8), name="c"), 8)


@pytest.mark.parametrize(("bits", "ymax"), [(8, 15), (4, 3), (2, 1), (6, 7)])
def test_the_papers_range(bits: int, ymax: float) -> None:
    assert fixed_range(bits) == ymax


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_tensor_behind_the_first_weights_has_its_widths_range(bits: int) -> None:
    """Its grid is that of the next power of two; before the first weights there are data."""
    net, y = network()
    model = net.model(y)
    layers = LayerTable((LayerOptions("branch", activation_bits=6),))
    assert FixRanges(activation_bits=bits, layers=layers)(model).modified
    plan = plan_quantization(model.graph, activation_bits=bits, layers=layers)
    fixed = {str(value.name): planned.bits for value, planned in plan.quantizers.items() if planned.signed is not None}
    without = {str(value.name) for value in plan.quantizers if RANGE_KEY not in value.metadata_props}
    assert without == {"x", "shrink_y"}
    assert fixed["a_y"] == bits
    CalibratePercentile(inputs=[net.inputs() * np.float32(0.3)], percentile=100, activation_bits=bits, layers=layers)(
        model
    )
    InsertQuantizers(activation_bits=bits, layers=layers)(model)
    for quantizer in [layer.quantizer for layer in read_view(model).layers if layer.quantizer is not None]:
        width = fixed.get(str(quantizer.source.name))
        if width is not None and quantizer.grid.needs_clip:
            top = quantizer.grid.exponent + width - quantizer.grid.is_signed
            assert 2.0 ** (top - 1) < fixed_range(width) <= 2.0**top
    assert read_view(model).inputs[0].grid.exponent == 1 - 7


def test_it_needs_no_data() -> None:
    net, y = network()
    model = net.model(y)
    FixRanges(activation_bits=4)(model)
    a = next(node for node in model.graph if node.name == "a").outputs[0]
    assert take_range(a).ymax == 3
