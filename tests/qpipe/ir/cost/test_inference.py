from collections.abc import Mapping

import onnx_ir as ir
import pytest

from qpipe.ir.cost.inference import float_inference, integer_inference, planned_layers, viewed_layers
from qpipe.ir.cost.network import CountedNetwork, count_network
from qpipe.ir.cost.parts import Part, all_operations
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.view import read_view
from support.counting import counted, residual
from support.networks import Network, checked
from support.quantize import finalized, quantized

CONV_MACS = {"first": 36 * 8 * 27, "inner": 36 * 8 * 72 + 9 * 16 * 8 + 9 * 16 * 72, "last": 16 * 5}


def by_name(parts: tuple[Part, ...]) -> dict[str, Mapping[str, int]]:
    return {part.name: part.operations.to_json() for part in parts}


def planned(model: ir.Model, bits: int) -> tuple[Part, ...]:
    plan = plan_quantization(model.graph, weight_bits=bits, activation_bits=bits)
    return integer_inference(counted(model), planned_layers(plan))


def viewed(model: ir.Model) -> tuple[CountedNetwork, tuple[Part, ...]]:
    view = read_view(model)
    network = count_network(model.graph, [*view.layers, *view.tail])
    return network, integer_inference(network, viewed_layers(view))


def test_in_float_a_batch_norm_behind_weights_is_their_bias() -> None:
    parts = by_name(float_inference(counted(residual())))
    inner, first = CONV_MACS["inner"], CONV_MACS["first"]
    assert parts["Conv"] == {"multiply float32": inner, "add float32": inner}
    assert parts["Conv, first or last"] == {"multiply float32": first, "add float32": first}
    assert parts["BatchNormalization"] == {"add float32": 2 * 8 * 36 + 2 * 16 * 9}
    assert parts["Add"] == {"add float32": 8 * 36 + 16 * 9}
    assert parts["bias"] == {"add float32": 5}


@pytest.mark.parametrize(("bits", "inner"), [(8, "multiply int8"), (4, "multiply int4")])
def test_the_export_that_is_planned(bits: int, inner: str) -> None:
    parts = by_name(planned(residual(), bits))
    outputs = 8 * 36 + 2 * 16 * 9
    assert parts["Conv"] == {inner: CONV_MACS["inner"], "add int32": CONV_MACS["inner"] + outputs}
    # First and last layers keep 8 bits; the last one's sums leave as they are, bias and all.
    assert parts["Conv, first or last"]["multiply int8"] == CONV_MACS["first"]
    assert parts["Gemm, first or last"] == {"multiply int8": 80, "add int32": 85}
    assert parts["Add"] == {"add int32": 8 * 36 + 16 * 9, "shift int32": 8 * 36 + 16 * 9}
    assert parts["quantize the input"]["multiply float32"] == 108
    # Of every result with a grid of its own: convolutions, with their multiplier, Adds and the mean.
    convolutions, others = 2 * 8 * 36 + 2 * 16 * 9, 8 * 36 + 16 * 9 + 16
    assert parts["requantize"] == {
        "multiply int32 × int8": convolutions,
        "add int32": convolutions + others,
        "shift int32": convolutions + others,
        "compare int32": 2 * (convolutions + others),
    }
    assert not {"BatchNormalization", "Relu"} & parts.keys()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_qdq_file_is_what_was_planned_and_stays_it_when_it_is_final(bits: int) -> None:
    model = quantized(residual(), bits=bits)
    _, parts = viewed(model)
    assert all_operations(parts) == all_operations(planned(residual(), bits))
    # What finalize leaves of a bias is no node of its own to float; to integers nothing changes.
    _, final = viewed(checked(finalized(model)))
    assert all_operations(final) == all_operations(parts)


def test_widths_of_weights_and_activations_are_told_apart() -> None:
    _, parts = viewed(quantized(residual(), weight_bits=2, activation_bits=5))
    assert by_name(parts)["Conv"]["multiply int5 × int2"] == CONV_MACS["inner"]


def test_a_code_may_be_wider_than_its_index() -> None:
    n = Network(8, 6, 6)
    x = n.op("Relu", n.norm(n.conv("x", 8, 8), 8))
    x = n.op("Relu", n.norm(n.conv(x, 8, 8), 8))
    model = quantized(n.model(n.head(x, 8)), weight_bits=3, activation_bits=3, quantizer="lq")
    # LQ-Net's levels are int8, those of activations uint8 (docs/usage.md).
    assert by_name(viewed(model)[1])["Conv"] == {"multiply int8": 36 * 8 * 72, "add int32": 36 * 8 * 73}


def test_what_carries_is_not_rounded_and_has_its_inputs_width() -> None:
    n = Network(3, 6, 6)
    x = n.op("MaxPool", n.op("Relu", n.norm(n.conv("x", 3, 8), 8)), kernel_shape=[2, 2], strides=[2, 2])
    x = n.op("Relu", n.norm(n.conv(x, 8, 8), 8))
    model = n.model(n.head(x, 8))
    parts = by_name(planned(model, 4))
    assert parts["MaxPool"] == {"compare int8": 3 * 8 * 9}
    assert parts["Conv"]["multiply int4"] == 9 * 8 * 72
    assert parts["requantize"]["shift int32"] == 8 * 36 + 8 * 9 + 8


def test_a_table_is_no_arithmetic_and_a_tail_stays_float() -> None:
    n = Network(3, 6, 6)
    x = n.op("Sigmoid", n.norm(n.conv("x", 3, 8), 8))
    parts = by_name(planned(n.model(n.op("Softmax", n.head(x, 8))), 8))
    assert "Sigmoid" not in parts
    assert set(parts["Softmax"]) == {"multiply float32", "add float32", "compare float32"}


def test_a_batch_norm_alone_is_a_multiplier_for_each_number() -> None:
    n = Network(8, 6, 6)
    x = n.conv(n.op("Relu", n.norm(n.conv("x", 8, 8), 8)), 8, 8)
    model = n.model(n.head(n.op("Relu", n.norm(n.op("Add", x, x), 8)), 8))
    assert by_name(planned(model, 8))["BatchNormalization"] == {"multiply int8": 8 * 36, "add int32": 8 * 36}
