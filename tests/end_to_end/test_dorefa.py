"""DoReFa-Net's weights from calibration to what ships: what is trained, the finalized file and every export agree."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from passes.quantizing.rescale_channels import RescaleChannels
from qpipe.errors import LoweringError, RecipeError
from qpipe.formats.base import TrainableWeight
from qpipe.formats.dorefa import DoReFa, dorefa_codes
from qpipe.formats.fixed_point import FixedPoint
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.view import is_final, is_trainable, read_final_view, read_view
from qpipe.nodes import DOMAIN, constant_array
from qpipe.ops.weight_layout import to_rows
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.teacher import float_teacher
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.run import assert_exact, evaluated, run
from support.training import train_steps
from support.weight_functions import functions
from support.zoo.digits import PREPROCESS, digits_model
from support.zoo.residual import BUILDS, Build, made, post_activation, pre_activation

BITS = range(2, 8)
NORMALIZED = [build for build in BUILDS if build is not pre_activation]
"""In pre-activation order no BatchNormalization follows a block's last convolution."""
SUMMED_OTHERWISE = 1e-4
"""Of logits of size 1: float32 sums of a few hundred products in another order."""


def dorefa(build: Build = post_activation, bits: int = 2, **options: Any) -> tuple[Network, ir.Model]:
    """Activations of 4 bits, unless told otherwise: 7-bit codes are pair-safe on them."""
    net, model = made(build)
    given_ = {"weight_bits": bits, "activation_bits": 4, "quantizer": "dorefa", **options}
    return net, quantized(model, net.inputs(16), **given_)


def weights(model: ir.Model) -> dict[str, TrainableWeight]:
    return {layer.name: layer.weight for layer in read_view(model).layers if is_trainable(layer)}


@pytest.mark.parametrize("bits", BITS)
def test_inner_layers_alone_have_it(bits: int) -> None:
    _, model = dorefa(bits=bits)
    found = list(weights(model).values())
    first, *inner, last = found
    assert isinstance(first.format, FixedPoint)
    assert isinstance(last.format, FixedPoint)
    assert (first.format.bits, last.format.bits) == (8, 8)
    assert len(inner) == 5
    for weight in inner:
        assert isinstance(weight.format, DoReFa)
        assert weight.format.bits == bits
        assert set(weight.exponents.tolist()) == {weight.format.exponent}
    assert functions(model) == [DoReFa.codes_op] * 6  # five calls and one definition


@pytest.mark.parametrize("bits", BITS)
def test_what_is_final_holds_integers_only(bits: int) -> None:
    """k bits are odd codes of k + 1: INT4 up to 3 bits, and int8 from 4 on. Nothing of the function is left."""
    _, model = dorefa(bits=bits)
    expected = {name: _codes(model, name) for name, weight in weights(model).items() if _is_dorefa(weight)}
    final = finalized(model)
    qoperator = to_qoperator(final)
    packed = 0
    for exported in (final, qoperator, to_integer(final)):
        assert functions(exported) == []
        assert DOMAIN not in exported.opset_imports
        kinds = {str(name): value.dtype for name, value in exported.graph.initializers.items()}
        packed += sum(kind == ir.DataType.INT4 for kind in kinds.values())
        assert ir.DataType.INT2 not in kinds.values()
    assert packed == (3 * 5 if bits <= 3 else 0)
    for layer in read_final_view(final).layers:
        if layer.name in expected:
            assert is_final(layer)
            assert layer.weight.bits == (4 if bits <= 3 else 8)
            # A negative multiplier has its sign in the codes; here all are positive.
            np.testing.assert_array_equal(to_rows(layer.node, layer.weight.codes), expected[layer.name])


def _is_dorefa(weight: TrainableWeight) -> bool:
    return isinstance(weight.format, DoReFa)


def _codes(model: ir.Model, name: str) -> np.ndarray:
    layer = next(layer for layer in read_view(model).layers if layer.name == name)
    assert is_trainable(layer)
    values = constant_array(layer.weight.values)
    assert values is not None
    return dorefa_codes(to_rows(layer.node, values), layer.weight.format.bits)


@pytest.mark.parametrize("build", NORMALIZED)
@pytest.mark.parametrize("bits", [2, 5])
def test_evaluation_equals_the_file(build: Build, bits: int) -> None:
    """Before training and after, and in what training reads back from the file."""
    net, model = dorefa(build, bits)
    x = net.inputs(16, seed=3)
    assert_exact(model, x)
    executor = Executor(model)
    before = [layer.weight.detach().clone() for layer in executor.weighted()]
    train_steps(executor, net.inputs(16))
    moved = [not torch.equal(old, new.weight) for old, new in zip(before, executor.weighted(), strict=True)]
    assert all(moved)
    write_back(executor)
    assert_exact(model, x, executor)
    assert_exact(model, x)


@settings(max_examples=4)
@given(
    bits=st.integers(2, 7),
    activation_bits=st.integers(2, 7),
    seed=st.integers(0, 9),
    steps=st.sampled_from([0, 2]),
)
def test_exports_are_exact(bits: int, activation_bits: int, seed: int, steps: int) -> None:
    net = Network(3, 8, 8, seed=seed)
    model = net.model(post_activation(net, True))
    quantized(model, net.inputs(16), weight_bits=bits, activation_bits=activation_bits, quantizer="dorefa")
    if steps:
        executor = Executor(model)
        train_steps(executor, net.inputs(16), steps=steps)
        write_back(executor)
    spec = finalized(model)
    np.testing.assert_array_equal(
        evaluated(Executor(model), net.inputs(4))[0].astype(np.float32), run(spec, net.inputs(4))[0]
    )
    for exported in (to_qoperator(spec), to_integer(spec)):
        assert run_gate(spec, exported).tensors == 1 + len(read_view(spec).layers)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_the_gradient_is_that_of_the_normalized_tanh(mode: Any) -> None:
    """Straight through the rounding alone: d w_q / d w = d (s n tanh(w) / max |tanh(w)|) / d w, the maximum too."""
    net, model = dorefa(bits=3)
    executor = Executor(model, batch_norm=mode).train()
    layer = list(executor.weighted())[1]
    assert layer.quantizer is not None
    spec = layer.quantizer.format
    assert isinstance(spec, DoReFa)
    weight = layer.weight.detach().double().requires_grad_()
    squashed = weight.tanh()
    (squashed / squashed.abs().max() * 7 * 2.0**spec.exponent * _signs(weight)).sum().backward()
    (layer.quantized_weight() * _signs(weight)).sum().backward()
    # The maximum's own gradient is a sum over all weights, in float32.
    torch.testing.assert_close(layer.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-5)
    assert torch.equal((layer.quantized_weight() / 2.0**spec.exponent) % 2, torch.ones_like(layer.weight))
    executor(torch.from_numpy(net.inputs()))


def _signs(weight: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(weight.numel()).reshape(weight.shape) % 3 == 0, 1.0, -0.5)


@pytest.mark.parametrize("bits", [2, 7])
def test_the_float_network_is_still_there(bits: int) -> None:
    net, model = made(post_activation)
    expected = run(model, net.inputs())[0]
    _, qdq = dorefa(bits=bits, cpu="vnni")
    found = float_teacher(qdq)(torch.from_numpy(net.inputs()))[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=SUMMED_OTHERWISE, atol=SUMMED_OTHERWISE)


def test_channels_are_not_rescaled() -> None:
    """One scale a layer: its channels' ratios are the weights' own."""
    _, model = dorefa()
    before = {name: constant_array(weight.values) for name, weight in weights(model).items() if _is_dorefa(weight)}
    RescaleChannels()(model)
    for name, values in before.items():
        np.testing.assert_array_equal(constant_array(weights(model)[name].values), values)


def test_a_layers_own_width() -> None:
    net, model = made(post_activation)
    names = [node.name for node in model.graph if node.op_type == "Conv"]
    table = LayerTable((LayerOptions(str(names[2]), weight_bits=5), LayerOptions(str(names[0]), weight_bits=4)))
    quantized(model, net.inputs(), weight_bits=2, activation_bits=4, quantizer="dorefa", layers=table)
    found = weights(model)
    assert found[str(names[2])].format.bits == 5
    assert found[str(names[1])].format.bits == 2
    assert isinstance(found[str(names[0])].format, FixedPoint)
    assert found[str(names[0])].format.bits == 4


def without_a_norm() -> tuple[Network, ir.Model]:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    x = net.op("Relu", net.conv(x, 8, 8, name="bare"))
    x = net.op("Relu", net.norm(net.conv(x, 8, 8), 8))
    return net, net.model(net.head(x, 8))


def test_a_convolution_without_batch_norm_is_refused_by_name() -> None:
    net, model = without_a_norm()
    with pytest.raises(LoweringError, match=r"^Conv 'bare': no BatchNormalization follows it, expected one with"):
        quantized(model, net.inputs(), weight_bits=2, activation_bits=4, quantizer="dorefa")


def test_widths_that_do_not_fit_int8_are_refused() -> None:
    net, model = made(post_activation)
    with pytest.raises(RecipeError, match=r"^Conv 'conv\d+': 8-bit weights, expected 2 to 7 with dorefa$"):
        quantized(model, net.inputs(), weight_bits=8, activation_bits=4, quantizer="dorefa")


@pytest.mark.parametrize(("bits", "activation_bits", "cpu"), [(7, 7, "portable"), (6, 8, "portable"), (7, 8, "vnni")])
def test_pairs_that_fit_int16_are_not_refused(bits: int, activation_bits: int, cpu: str) -> None:
    dorefa(bits=bits, activation_bits=activation_bits, cpu=cpu)


def test_pairs_that_do_not_fit_int16_are_refused() -> None:
    message = r"^Conv 'conv\d+': 7-bit dorefa weights on a 8-bit input saturate on x86 without VNNI, expected fewer"
    with pytest.raises(RecipeError, match=message):
        dorefa(bits=7, activation_bits=8)


@pytest.mark.slow
def test_the_verbs(tmp_path: Path) -> None:
    """Restored BatchNormalizations count; all three formats ship it."""
    path = tmp_path / "net.onnx"
    onnx.save_model(digits_model(), path)
    options: dict[str, Any] = {"weight_bits": 2, "activation_bits": 4, "quantizer": "dorefa", "batches": 1}
    qdq = qpipe.calibrate(path, "digits", tmp_path / "qdq.onnx", preprocess=PREPROCESS, **options)
    assert [weight.format.bits for weight in weights(qdq).values() if _is_dorefa(weight)] == [2, 2]
    # The written file is read as what it was, and runs.
    tuned = qpipe.finetune(tmp_path / "qdq.onnx", "digits", tmp_path / "tuned.onnx", lr=0.02, flip=False)
    assert functions(tuned) == [DoReFa.codes_op] * 3
    exports = [qpipe.export(tmp_path / "tuned.onnx", format=form) for form in ("qdq", "qoperator", "integer")]
    assert all(functions(exported) == [] for exported in exports)
    for row in qpipe.validate([tmp_path / "tuned.onnx", *exports], "digits", limit=90).rows[1:]:
        assert row.integers_equal


def test_the_verb_refuses_eight_bits(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^weight_bits: 8, expected 2 to 7 with the quantizer 'dorefa'$"):
        qpipe.calibrate(digits_model(), "digits", quantizer="dorefa", batches=1)
