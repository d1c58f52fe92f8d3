import numpy as np
import onnx_ir as ir
import pytest

from passes.quantizing.calibrate_percentile import CalibratePercentile, take_range
from passes.quantizing.round_ranges import TRIED, RangeRounding, RoundRanges
from qpipe.arith.quantize import dequantize, quantize
from qpipe.errors import DataError, ModelError
from qpipe.ir.quantized.plan import plan_quantization
from support.networks import Network
from support.run import run


def network() -> tuple[Network, str]:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8), name="a")
    x = net.relu6(net.norm(net.conv(x, 8, 8), 8), 1.5)
    return net, net.head(net.op("Relu", net.conv(x, 8, 8), name="c"), 8)


def batches(net: Network) -> list[np.ndarray]:
    return [net.inputs(seed=seed) for seed in (1, 2)]


def ranges(rounding: RangeRounding | None, bits: int = 4) -> dict[str, float]:
    net, y = network()
    model = net.model(y)
    CalibratePercentile(inputs=batches(net), activation_bits=bits)(model)
    if rounding is not None:
        assert RoundRanges(rounding=rounding, activation_bits=bits, inputs=batches(net))(model).modified
    return {str(value.name): take_range(value).ymax for value in plan_quantization(model.graph).quantizers}


@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_powers_of_two_of_the_range(rounding: RangeRounding) -> None:
    for ymax, rounded in zip(ranges(None).values(), ranges(rounding).values(), strict=True):
        expected = np.ceil(np.log2(ymax)) if rounding == "ceil" else np.round(np.log2(ymax))
        assert rounded == 2.0**expected


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_least_error_of_four(bits: int) -> None:
    """By definition, on the tensors of the float network."""
    net, y = network()
    model = net.model(y)
    plan = plan_quantization(model.graph, activation_bits=bits)
    seen = net.model(y)
    values = {str(value.name): value for node in seen.graph for value in node.outputs}
    names = [str(value.name) for value in plan.quantizers if str(value.name) != "x"]
    seen.graph.outputs.clear()
    seen.graph.outputs.extend(values[name] for name in names)
    for value in seen.graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    runs = [run(seen, batch) for batch in batches(net)]
    tensors = dict(zip(names, (np.concatenate(parts) for parts in zip(*runs, strict=True)), strict=True))
    tensors["x"] = np.concatenate(batches(net))
    ceilings, found = ranges("ceil", bits), ranges("least-error", bits)
    for value, planned in plan.quantizers.items():
        tensor, top = tensors[str(value.name)], int(np.log2(ceilings[str(value.name)]))
        grids = [planned.grid(top - i, is_negative=True) for i in range(TRIED)]
        errors = [np.square(tensor - dequantize(quantize(tensor, grid), grid), dtype=float).sum() for grid in grids]
        assert found[str(value.name)] == 2.0 ** (top - int(np.argmin(errors)))


def test_zeros_keep_their_range() -> None:
    net, y = network()
    model = net.model(y)
    CalibratePercentile(inputs=[0 * net.inputs()])(model)
    RoundRanges(rounding="least-error", inputs=[0 * net.inputs()])(model)
    assert take_range(model.graph.inputs[0]).ymax == 0


def test_ranges_come_first() -> None:
    net, y = network()
    with pytest.raises(ModelError, match="has no observed range"):
        RoundRanges()(net.model(y))


def test_no_batch() -> None:
    net, y = network()
    model = net.model(y)
    CalibratePercentile(inputs=batches(net))(model)
    with pytest.raises(DataError, match="no batch"):
        RoundRanges(rounding="least-error")(model)
