"""Output channels rescaled between a convolution and its batch normalization."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.quantizing.rescale_channels import RescaleChannels
from passes.shipping.finalize import Finalize
from qpipe.ir.graph.affine import read_affine
from qpipe.ir.quantized.final_weights import fit_layer, float_rows
from qpipe.ir.quantized.view import is_trainable, read_view
from qpipe.runtime.session import open_session
from support.networks import Weights, float_model
from support.quantize import quantized
from support.zoo.residual import residual_network

FLOAT32 = 2e-6  # a product of a few numbers rounded to float32


def folded(model: ir.Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each layer as one linear map: k w, and what is added."""
    maps = []
    for layer in read_view(model).layers:
        if is_trainable(layer):
            rows = float_rows(layer).astype(np.float64)
            affine = read_affine(layer, len(rows))
            maps.append((affine.k[:, None] * rows, affine.beta - affine.k * affine.mean))
    return maps


def test_the_float_network_stays_the_same() -> None:
    model = quantized(residual_network(), cpu="vnni")
    before = folded(model)
    assert RescaleChannels()(model).modified
    for (weight, offset), (weight_after, offset_after) in zip(before, folded(model), strict=True):
        assert weight_after == pytest.approx(weight, rel=FLOAT32, abs=FLOAT32)
        assert offset_after == pytest.approx(offset, rel=FLOAT32, abs=FLOAT32)


def test_multipliers_become_exact() -> None:
    model = quantized(residual_network())
    RescaleChannels()(model)
    for layer in read_view(model).layers:
        if is_trainable(layer) and layer.batch_norm is not None:
            rows = float_rows(layer)
            codes = np.round(rows / np.exp2(layer.weight.exponents)[:, None])
            integers = fit_layer(layer, codes)
            rounded = integers.sign * integers.multiplier * np.exp2(integers.exponent)
            assert rounded == pytest.approx(read_affine(layer, len(rows)).k, rel=FLOAT32)


def test_the_integer_network_comes_nearer_to_the_float_one() -> None:
    reference = residual_network()
    shape = [int(size) for size in reference.graph.inputs[0].shape[1:]]
    x = np.random.default_rng(1).standard_normal((64, *shape)).astype(np.float32)
    expected = open_session(reference).run(None, {"x": x})[0]
    errors = []
    for rescale in (False, True):
        model = quantized(residual_network(), inputs=[x], bits=8)
        if rescale:
            RescaleChannels()(model)
        Finalize()(model)
        errors.append(float(np.square(open_session(model).run(None, {"x": x})[0] - expected).mean()))
    assert errors[1] < errors[0]


def test_a_second_run_changes_nothing() -> None:
    model = quantized(residual_network())
    RescaleChannels()(model)
    assert not RescaleChannels()(model).modified


def test_without_batch_normalization_nothing_changes() -> None:
    w = Weights()
    w.normal("w", 4, 3, 3, 3)
    w.normal("v", 4 * 16, 5)
    nodes = ["c = Conv(x, w)", "r = Relu(c)", "f = Flatten(r)", "y = MatMul(f, v)"]
    model = float_model("plain", (3, 6, 6), nodes, **w.constants)
    assert not RescaleChannels()(quantized(model)).modified


def test_layers_that_are_to_keep_their_weights_do() -> None:
    """The others are rescaled as ever."""
    whole, kept = (quantized(residual_network(), cpu="vnni") for _ in range(2))
    names = [layer.name for layer in read_view(kept).layers if is_trainable(layer) and layer.batch_norm is not None]
    before = {layer.name: float_rows(layer).copy() for layer in read_view(kept).layers if is_trainable(layer)}
    RescaleChannels()(whole)
    assert RescaleChannels(keep=(names[0],))(kept).modified
    after, free = (
        {layer.name: float_rows(layer) for layer in read_view(model).layers if is_trainable(layer)}
        for model in (kept, whole)
    )
    assert np.array_equal(after[names[0]], before[names[0]])
    assert not np.array_equal(free[names[0]], before[names[0]])
    assert all(np.array_equal(after[name], free[name]) for name in after if name != names[0])
    assert not RescaleChannels(keep=tuple(names))(quantized(residual_network(), cpu="vnni")).modified
