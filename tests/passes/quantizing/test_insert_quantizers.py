import numpy as np
import onnx_ir as ir
import pytest

from passes.quantizing.calibrate_percentile import CalibratePercentile
from passes.quantizing.insert_quantizers import InsertQuantizers
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import pair_excess
from qpipe.errors import LoweringError, RecipeError
from qpipe.ir.files.metadata import get_object
from qpipe.ir.quantized.view import is_trainable, read_view
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.nodes import constant_array
from qpipe.ops.weight_layout import to_rows
from qpipe.train.executor import Executor
from support.networks import Network
from support.quantize import quantized
from support.run import run


def specs(model: ir.Model) -> dict[str, QuantSpec]:
    view = read_view(model)
    quantizers = [*view.inputs, *(layer.quantizer for layer in view.layers if layer.quantizer is not None)]
    return {str(q.source.name): q.grid for q in quantizers}


def test_grids_follow_from_the_ranges() -> None:
    """l = log2(ymax) - b, one less where a bit holds the sign; ReLU6's bound is the Clip's."""
    net = Network(3, 8, 8)
    a = net.op("Relu", net.conv("x", 3, 8), name="a")
    b = net.relu6(net.conv(a, 8, 8), 1.25)
    model = net.model(net.head(net.op("Relu", net.conv(b, 8, 8)), 8))
    inputs = net.inputs() / np.abs(net.inputs()).max() * np.float32(3.9)
    CalibratePercentile(inputs=[inputs], percentile=100.0, activation_bits=4)(model)
    InsertQuantizers(activation_bits=4, weight_bits=4)(model)
    found = specs(model)
    assert found["x"] == QuantSpec.signed(8, 2 - 7)
    conv = next(node for node in model.graph if node.op_type == "Conv" and node.name == "conv2").outputs[0]
    clipped = found[str(conv.name)]
    assert clipped.scale * clipped.qmax == 1.25
    assert clipped.exponent == 1 - 4
    assert all(node.op_type != "Clip" or "codes" in str(node.inputs[0].name) for node in model.graph)  # type: ignore[union-attr]


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_written_weights_are_pair_safe(per_channel: bool) -> None:
    net = Network(16, 8, 8)
    x = net.op("Relu", net.conv("x", 16, 32))
    model = quantized(
        net.model(net.head(net.op("Relu", net.conv(x, 32, 32)), 32)), net.inputs(), per_channel=per_channel
    )
    free = quantized(net.model(net.head(net.op("Relu", net.conv(x, 32, 32)), 32)), net.inputs(), cpu="vnni")
    unsafe = []
    for which in (model, free):
        total = 0
        for layer in read_view(which).layers:
            if is_trainable(layer):
                values = constant_array(layer.weight.values)
                rows = to_rows(layer.node, values)
                codes = np.clip(np.round(rows / np.exp2(layer.weight.exponents[:, None])), -127, 127)
                total += np.count_nonzero(pair_excess(codes, 2**15 // layer.sources[0].grid.stored_max))
        unsafe.append(total)
    assert unsafe[0] == 0
    assert unsafe[1] > 0


def test_the_file_says_how_it_was_quantized() -> None:
    net = Network(3, 8, 8)
    model = quantized(net.model(net.head(net.conv("x", 3, 8), 8)), net.inputs(), cpu="vnni", weight_clip=3.5)
    assert get_object(model, QUANTIZATION) == {"cpu": "vnni", "weight_clip": 3.5, "weight_rounding": None}


def test_it_computes_nearly_the_float_network() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    y = net.head(net.op("Relu", net.op("Add", net.conv(x, 8, 8), x)), 8)
    expected = run(net.model(y), net.inputs())[0]
    found = run(quantized(net.model(y), net.inputs()), net.inputs())[0]
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())
    assert not np.array_equal(found, expected)


def test_metadata_and_names_outside_stay() -> None:
    net = Network(3, 8, 8)
    model = net.model(net.head(net.op("Relu", net.conv("x", 3, 8), name="a"), 8), "a_y")
    model.metadata_props["author"] = "somebody"
    names = [value.name for value in model.graph.outputs]
    quantized(model, net.inputs())
    assert [value.name for value in model.graph.outputs] == names
    assert model.graph.inputs[0].name == "x"
    assert model.metadata_props["author"] == "somebody"
    every = [value.name for node in model.graph for value in node.outputs] + list(model.graph.initializers)
    assert len(set(every)) == len(every)


def test_a_tensor_of_zeros_warns_with_its_name() -> None:
    net = Network(3, 8, 8)
    model = net.model(net.head(net.op("Relu", net.conv("x", 3, 8), name="a"), 8))
    CalibratePercentile(inputs=[0 * net.inputs()])(model)
    with pytest.warns(UserWarning, match="was zero") as seen:
        InsertQuantizers()(model)
    assert "tensor 'a_y' was zero in all of the calibration data" in {str(warning.message) for warning in seen}


def test_nothing_to_quantize() -> None:
    net = Network(3, 8, 8)
    with pytest.raises(LoweringError, match="no Conv, Gemm or MatMul"):
        InsertQuantizers()(net.model(net.op("Relu", "x")))


def test_all_unsupported_nodes_at_once() -> None:
    net = Network(4, 8)
    weight = net.constant(net.floats(2, 8, 8))  # a matrix for each image of a batch that is open
    y = net.op("Add", *(net.op("MatMul", "x", weight, name=name) for name in ("first", "second")))
    with pytest.raises(LoweringError, match="no layer of weights has an integer form: MatMul 'first', MatMul 'second'"):
        InsertQuantizers()(net.model(y))


def test_an_island_between_quantizers() -> None:
    """Its floats are read as they are by what stays float, and by weights through a quantizer of their own."""
    net = Network(3, 8, 8)
    x = net.op("LpNormalization", net.op("Relu", net.conv("x", 3, 8)), name="gate")
    y = net.op("Mul", net.op("Sigmoid", net.conv(x, 8, 8, name="end")), x, name="product")
    model = quantized(net.model(y))
    nodes = {node.name: node for node in model.graph}
    assert [value.producer().op_type for value in nodes["gate"].inputs] == ["DequantizeLinear"]
    assert nodes["end"].inputs[0].producer().op_type == "DequantizeLinear"
    assert nodes["product"].inputs[1].producer() is nodes["gate"]


@pytest.mark.parametrize("option", ["weight_bits", "activation_bits"])
@pytest.mark.parametrize("bits", [1, 9, 16])
def test_widths_that_there_are_not(option: str, bits: int) -> None:
    net = Network(3, 8, 8)
    with pytest.raises(RecipeError, match=f"{option} is {bits}, expected 2 to 8"):
        InsertQuantizers(**{option: bits})(net.model(net.conv("x", 3, 8)))


def test_operands_too_far_apart_for_an_exact_sum() -> None:
    """Of a table the steps are its own."""
    net = Network(3, 8, 8)
    large = net.op("Conv", "x", net.constant(net.floats(3, 3, 1, 1, scale=1e9)))
    x = net.op("Add", net.op("Sigmoid", net.conv("x", 3, 3)), large, name="sum")
    model = net.model(net.conv(net.op("Relu", x), 3, 8))
    CalibratePercentile(inputs=[net.inputs()])(model)
    with pytest.raises(LoweringError, match="Add 'sum': its operands' exponents are"):
        InsertQuantizers()(model)


SAMPLED = 0.3
"""Relative: a normal distribution's sigma, from two percentiles of a few thousand values that are nearly normal."""


def test_learned_levels_know_at_which_percentile_the_range_was_observed() -> None:
    """LQ-Net's first levels are those of a normal distribution, whichever of its percentiles the range is."""
    largest = []
    for percentile in (90.0, 99.9):
        net = Network(3, 8, 8)
        x = net.op("Relu", net.conv("x", 3, 16))
        model = net.model(net.head(net.op("Relu", net.conv(x, 16, 16)), 16))
        widths: dict[str, int] = {"activation_bits": 2}
        CalibratePercentile(inputs=[net.inputs(64)], percentile=percentile, **widths)(model)
        InsertQuantizers(weight_bits=2, quantizer="lq", percentile=percentile, **widths)(model)
        ((_, levels),) = Executor(model).learned_quantizers()
        largest.append(float(levels.basis.sum()))
    assert largest[0] == pytest.approx(largest[1], rel=SAMPLED)
