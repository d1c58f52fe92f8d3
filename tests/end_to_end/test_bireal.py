"""BiReal-Net from calibration to what ships: what is trained, the finalized file and every export agree."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import qpipe
from passes.quantizing.calibrate_on_signs import CalibrateOnSigns
from passes.quantizing.rescale_channels import RescaleChannels
from passes.skips.shortcut_every_convolution import ShortcutEveryConvolution
from qpipe.errors import LoweringError, RecipeError
from qpipe.formats.binary import SIGNS, Binary, is_sign, magnitudes
from qpipe.formats.fixed_point import FixedPoint
from qpipe.ir.cost.macs import count_parameters, total_macs
from qpipe.ir.graph.binary_blocks import binary_layers
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import QuantizedLayer, Weighted, is_final, is_trainable, read_final_view, read_view
from qpipe.nodes import DOMAIN
from qpipe.ops.weight_layout import to_rows
from qpipe.runtime.gate import run_gate
from qpipe.train.companions.auxiliary import AuxiliaryGradient
from qpipe.train.companions.blocks import blocks_of
from qpipe.train.executor import Executor
from qpipe.train.quantizer import Quantizer
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.run import assert_exact
from support.training import cross_entropy, train_steps
from support.weight_functions import functions
from support.zoo.digits import PREPROCESS, digits_model
from support.zoo.residual import Build, activated_branch, inverted_residuals, made, post_activation

TO_FLOAT32 = 1e-6
"""Relative: what float32 weights, rescaled and averaged, are next to a power of two."""


def bireal(build: Build = post_activation) -> tuple[Network, ir.Model]:
    net, model = made(build)
    ShortcutEveryConvolution()(model)
    CalibrateOnSigns(inputs=[net.inputs(16)])(model)
    quantized(model, net.inputs(16), quantizer="bireal")
    RescaleChannels()(model)
    return net, model


def binary(model: ir.Model) -> list[QuantizedLayer]:
    names = binary_layers(model)
    return [layer for layer in read_view(model).layers if layer.name in names]


def rows_of(layer: QuantizedLayer) -> np.ndarray:
    assert is_trainable(layer)
    return to_rows(layer.node, layer.weight.array)


def test_blocks_are_binary_and_nothing_else() -> None:
    """Stem, projection and head keep 8 bits; the stream between the signs has 8 bits and a sign."""
    _, model = bireal()
    layers = read_view(model).layers
    weighted = [layer for layer in layers if isinstance(layer, Weighted)]
    kinds = [type(layer.weight.format) for layer in weighted if is_trainable(layer)]
    assert kinds == [FixedPoint, *[Binary] * 3, FixedPoint, Binary, FixedPoint]
    for layer in weighted:
        source = layer.sources[0]
        assert (source.grid == SIGNS and is_sign(source.grid_or_table)) == (layer.name in binary_layers(model))
    adds = [layer for layer in layers if layer.op_type == "Add"]
    assert len(adds) == 4
    for add in adds:
        assert all((q.grid.bits, q.grid.is_signed) == (8, True) for q in add.sources)
        assert add.quantizer is not None
        assert add.quantizer.grid.bits == 8
    assert functions(model) == [Binary.codes_op] * 5  # four calls and one definition


def test_every_channel_has_the_nominal_magnitude() -> None:
    _, model = bireal()
    for layer in binary(model):
        assert is_trainable(layer)
        np.testing.assert_allclose(magnitudes(rows_of(layer)), 2.0**layer.weight.format.exponent, rtol=TO_FLOAT32)
    assert not RescaleChannels()(model).modified


def test_what_is_final_holds_two_bit_integers() -> None:
    _, model = bireal()
    expected = {layer.name: np.where(rows_of(layer) < 0, -1, 1) for layer in binary(model)}
    final = finalized(model)
    for exported in (final, to_qoperator(final), to_integer(final)):
        assert functions(exported) == []
        assert DOMAIN not in exported.opset_imports
        kinds = [value.dtype for value in exported.graph.initializers.values()]
        assert kinds.count(ir.DataType.INT2) == 4
    for layer in binary(final):
        assert is_final(layer)
        assert layer.weight.bits == 2
        np.testing.assert_array_equal(to_rows(layer.node, layer.weight.codes), expected[layer.name])


@pytest.mark.parametrize("build", [post_activation, inverted_residuals, activated_branch])
@pytest.mark.parametrize("mode", ["running", "batch"])
def test_everything_that_ships_is_what_was_trained(build: Build, mode: Any) -> None:
    """Before training and after, and in what training reads back from the file."""
    net, model = bireal(build)
    x = net.inputs(16, seed=3)
    assert_exact(model, x)
    executor = Executor(model, batch_norm=mode)
    before = [layer.weight.detach().clone() for layer in executor.weighted()]
    train_steps(executor, net.inputs(16), lr=0.01)
    assert all(not torch.equal(old, new.weight) for old, new in zip(before, executor.weighted(), strict=True))
    write_back(executor)
    assert_exact(model, x, executor)
    assert_exact(model, x)
    spec = finalized(model)
    assert not certify(read_final_view(spec)).problems
    for exported in (to_qoperator(spec), to_integer(spec)):
        assert run_gate(spec, exported).tensors == 1 + len(read_view(spec).layers)


def test_statistics_are_those_of_signs() -> None:
    """Normalized by what was measured, the network gives what it gives normalized by the batch itself."""
    net, model = bireal()
    x = torch.from_numpy(net.inputs(16))
    by_batch = Executor(model, batch_norm="batch").train()
    by_running = Executor(model).train()
    with torch.no_grad():
        found, expected = by_running(x)[0], by_batch(x)[0]
    # Three quantizers away from each other, and signs that lie on the edge.
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.9


def test_the_gradient_of_a_sign_is_a_piecewise_quadratics() -> None:
    _, model = bireal()
    table = binary(model)[0].sources[0].grid_or_table
    quantizer = Quantizer(table, carries=False).train()
    x = torch.linspace(-2, 2, 65, requires_grad=True)
    y = quantizer(x)
    (y * 3).sum().backward()
    assert x.grad is not None
    expected = 3 * torch.where(x.abs() < 1, 2 - 2 * x.abs(), torch.zeros(()))
    torch.testing.assert_close(x.grad, expected.detach())
    assert set(y.tolist()) == {-1.0, 1.0}
    assert float(quantizer(torch.zeros(1))) == 1.0
    with torch.no_grad():
        assert torch.equal(quantizer.eval()(x), y)
    halves = x.detach().bfloat16().requires_grad_()
    quantizer.train()(halves).sum().backward()
    assert torch.equal(halves.grad, (expected / 3).bfloat16())


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_the_gradient_of_weights_is_magnitude_aware(mode: Any) -> None:
    """`mean |w|` of the channel within |w| <= 1, and none beyond it; the forward has the signs."""
    net, model = bireal()
    executor = Executor(model, batch_norm=mode).train()
    layer = list(executor.weighted())[1]
    assert layer.quantizer is not None
    spec = layer.quantizer.format
    assert isinstance(spec, Binary)
    with torch.no_grad():
        layer.weight[0, 0, 0] = torch.tensor([1.0, -1.5, 0.0])
    weight = layer.quantized_weight()
    assert torch.equal(weight / 2.0**spec.exponent, torch.where(layer.weight < 0, -1.0, 1.0))
    weight.sum().backward()
    mean = layer.weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True).expand_as(layer.weight)
    expected = torch.where(layer.weight.abs() <= 1, mean, torch.zeros(()))
    torch.testing.assert_close(layer.weight.grad, expected.detach())
    executor(torch.from_numpy(net.inputs()))


def test_training_knows_the_blocks_as_they_were() -> None:
    net, model = bireal()
    executor = Executor(model)
    blocks = blocks_of(model, executor)
    assert [block.name for block in blocks] == ["add1", "add2"]
    assert [[step.layer.name for step in block.products] for block in blocks] == [
        ["conv3", "conv6"],
        ["conv10", "conv13"],
    ]
    assert [block.end.layer.name for block in blocks] == ["add1", "add2"]
    assert all(block.has_skip for block in blocks)
    executor = Executor(model, batch_norm="batch").train()
    auxiliary = AuxiliaryGradient(executor, blocks, weight=1.0, layerwise=False, image_shape=(3, 8, 8))
    x, labels = torch.from_numpy(net.inputs()), torch.arange(8) % 5
    (cross_entropy(executor(x)[0].flatten(1), labels, x) + auxiliary.extra_loss(cross_entropy, labels, x)).backward()
    auxiliary.end_backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.any() for layer in executor.weighted())
    assert len(auxiliary.adaptors) == 2


def test_a_layers_own_width_is_refused_by_name() -> None:
    net, model = made(post_activation)
    ShortcutEveryConvolution()(model)
    table = LayerTable((LayerOptions("conv3", weight_bits=4),))
    with pytest.raises(RecipeError, match=r"^Conv 'conv3': 4-bit weights, expected no bits given: a binary layer has"):
        quantized(model, net.inputs(), quantizer="bireal", layers=table)


def test_a_network_that_was_not_prepared_is_refused() -> None:
    net, model = made(post_activation)
    with pytest.raises(LoweringError, match=r"^no layer is marked as binary, expected a network that went through"):
        quantized(model, net.inputs(), quantizer="bireal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weight_bits": 4},
            r"^weight_bits: 4, expected none with the quantizer 'bireal': a binary network has one bit$",
        ),
        ({"activation_bits": 2}, r"^activation_bits: 2, expected none with the quantizer 'bireal'"),
        ({"skip_bits": 6}, r"^skip_bits: 6, expected none with the quantizer 'bireal'"),
        ({"activation_rounding": "least-error"}, r"^activation_rounding: 'least-error', expected 'ceil' or 'nearest'"),
    ],
)
def test_the_verb_refuses_bits(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        qpipe.calibrate(digits_model(), "digits", quantizer="bireal", batches=1, **options)


@pytest.mark.slow
def test_the_verbs(tmp_path: Path) -> None:
    """One block of one convolution; all three formats ship it, and a teacher of another structure is refused."""
    path = tmp_path / "net.onnx"
    onnx.save_model(digits_model(), path)
    qdq = qpipe.calibrate(
        path, "digits", tmp_path / "qdq.onnx", preprocess=PREPROCESS, quantizer="bireal", batches=1, batch_size=64
    )
    assert binary_layers(qdq) == {"conv2"}
    options: dict[str, Any] = {"recipe": "ag-binary", "epochs": 1, "flip": False}
    with pytest.raises(RecipeError, match=r"^teacher: 'float', but a binary network holds none, expected the float"):
        qpipe.finetune(tmp_path / "qdq.onnx", "digits", teacher="float", **options)
    tuned = qpipe.finetune(tmp_path / "qdq.onnx", "digits", tmp_path / "tuned.onnx", method="ag", **options)
    assert functions(tuned) == [Binary.codes_op] * 2
    exports = [qpipe.export(tmp_path / "tuned.onnx", format=form) for form in ("qdq", "qoperator", "integer")]
    assert all(functions(exported) == [] for exported in exports)
    for row in qpipe.validate([tmp_path / "tuned.onnx", *exports], "digits", limit=90).rows[1:]:
        assert row.integers_equal


def test_what_it_costs_is_what_the_float_network_costs() -> None:
    _, model = bireal()
    float_model = made(post_activation)[1]
    assert count_parameters(model.graph) == count_parameters(float_model.graph)
    assert total_macs(model.graph) == total_macs(float_model.graph)
