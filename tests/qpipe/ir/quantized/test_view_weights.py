"""The weights that the view reads: their widths, clips and roundings, and the integers of final ones."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import ModelError
from qpipe.formats.fixed_point import DEFAULT_ROUNDING, FixedPoint
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.view import is_final, is_trainable, read_view
from qpipe.ir.quantized.view_weights import QUANTIZATION, split_scale
from qpipe.nodes import set_constant_input
from support.networks import Network
from support.quantize import finalized, quantized


def network(**options: object) -> ir.Model:
    net = Network(3, 8, 8)
    x = net.relu6(net.norm(net.conv("x", 3, 8, name="first"), 8))
    x = net.op("Relu", net.norm(net.conv(x, 8, 8, name="second"), 8))
    x = net.op("Relu", net.conv(x, 8, 8, name="third"))
    return quantized(net.model(net.head(x, 8)), net.inputs(), **options)


def specs(model: ir.Model) -> dict[str, FixedPoint]:
    layers = read_view(model).layers
    return {layer.name: layer.weight.format for layer in layers if is_trainable(layer)}


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_widths_own_clip_and_rounding(bits: int) -> None:
    second = specs(network(weight_bits=bits))["second"]
    assert (second.bits, second.clip, second.rounding) == (bits, None, DEFAULT_ROUNDING[bits])


@pytest.mark.parametrize("largest", [5, 100, 2**15])
def test_a_range_that_no_width_has(largest: int) -> None:
    model = network()
    clip = next(node for node in model.graph if node.name == "second_weight_clip")
    set_constant_input(clip, 2, np.array(largest, np.int32))
    with pytest.raises(
        ModelError, match=rf"Clip 'second_weight_clip': clips weights to {largest}, expected 2\*\*\(b-1"
    ):
        read_view(model)


def test_what_was_chosen_is_read_back(tmp_path: Path) -> None:
    """A layer's own clip goes before that of all; both are there for whoever trains the saved file on."""
    layers = LayerTable((LayerOptions("second", weight_bits=3, weight_clip=2.5),))
    model = network(weight_bits=5, weight_clip=3.5, weight_rounding="ceil", layers=layers)
    save_model(model, tmp_path / "net.onnx")
    found = specs(load_model(tmp_path / "net.onnx"))
    assert found == specs(model)
    assert {name: (spec.bits, spec.clip) for name, spec in found.items() if name in ("first", "second", "third")} == {
        "first": (8, 3.5),
        "second": (3, 2.5),
        "third": (5, 3.5),
    }
    assert {spec.rounding for spec in found.values()} == {"ceil"}


def test_a_file_from_before_there_was_a_choice_is_rounded_up() -> None:
    model = network(weight_bits=4)
    model.metadata_props[f"qpipe.{QUANTIZATION}"] = json.dumps({"weight_clip": None, "cpu": "portable"})
    assert {spec.rounding for spec in specs(model).values()} == {"ceil"}


def test_final_weights_are_the_layers_integers() -> None:
    for layer in read_view(finalized(network(weight_bits=4))).layers:
        if is_final(layer):
            assert layer.batch_norm is None
            assert np.all(layer.weight.multiplier % 2 == 1)
            assert np.abs(layer.weight.codes).max() <= 2 ** (layer.weight.bits - 1) - 1
            np.testing.assert_array_equal(
                layer.weight.scales, layer.weight.multiplier * 2.0 ** layer.weight.exponent.astype(float)
            )


def test_split_scale() -> None:
    scales = np.array([1.0, 0.75, 255 * 2.0**-20, 2.0**-100, 96.0])
    multiplier, exponent = split_scale(scales)
    assert multiplier.tolist() == [1, 3, 255, 1, 3]
    np.testing.assert_array_equal(multiplier * 2.0 ** exponent.astype(float), scales)
    for bad in (257.0, 0.1, 0.0, -1.0):
        with pytest.raises(ModelError, match="expected an 8-bit integer times a power of two"):
            split_scale(np.array([1.0, bad]))
