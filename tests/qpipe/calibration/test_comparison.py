"""A calibrated network beside the float one: decibels, lost channels, first choices, and what is not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize import normalize
from qpipe.calibration import pieces
from qpipe.calibration.comparison import _Sums, compare_networks
from qpipe.errors import ModelError
from qpipe.ir.quantized.compared import MOST_DECIBELS, NetworkComparison
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import constant_input
from support.networks import Network, build, float_model
from support.quantize import finalized, quantized
from support.run import run

ROUNDING = 0.05
"""Decibels are rounded to a tenth."""


def network(seed: int = 3) -> Network:
    net = Network(3, 8, 8, seed=seed)
    first = net.op("Relu", net.norm(net.conv("x", 3, 8, name="c1"), 8, np.ones(8)), name="r1")
    second = net.op("Relu", net.conv(first, 8, 8, bias=True, name="c2"), name="r2")
    pooled = net.op("GlobalAveragePool", net.op("Add", first, second, name="sum"), name="pool")
    net.gemm(net.op("Flatten", pooled, name="flat"), 8, 5)
    return net


def compared(net: Network, images: np.ndarray, **options: Any) -> tuple[NetworkComparison, ir.Model, ir.Model]:
    floats = net.model(net.nodes[-1].output[0])
    normalize(floats)
    final = finalized(quantized(floats.clone(), [images], **options))
    return compare_networks(floats, final, images), floats, final


SUMMED = 1e-4
"""Decibels: sums of 500 squares in float32, each some last bits of 2**-23 off, which is 1e-5 at most."""


def test_decibels_are_those_of_the_definition() -> None:
    net = network()
    images = net.inputs(20)
    found, floats, final = compared(net, images)
    expected, got = run(floats, images)[0].astype(np.float64), run(final, images)[0]
    ratio = 10 * math.log10((expected**2).sum() / ((expected - got) ** 2).sum())
    assert found.tensors[-1].decibels == pytest.approx(ratio, abs=ROUNDING)
    assert found.images == 20
    same = (expected.argmax(axis=1) == got.argmax(axis=1)).mean()
    assert found.agreement == pytest.approx(same)


def test_every_quantizer_but_a_carriers_is_compared() -> None:
    net = network()
    found, _, final = compared(net, net.inputs(8))
    assert [tensor.layer for tensor in found.tensors] == [
        "the input", "Conv 'c1'", "Conv 'c2'", "Add 'sum'", "GlobalAveragePool 'pool'", "Gemm 'gemm8'",
    ]  # fmt: skip
    quantizers = [layer.quantizer for layer in read_view(final).layers if layer.quantizer is not None]
    assert len(quantizers) == len(found.tensors) - 1  # the input has one, the last layer none, Flatten one


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    images = net.inputs(12)
    whole, floats, final = compared(net, images)
    monkeypatch.setattr(pieces, "_PIECE_VALUES", 2000)
    cut = compare_networks(floats, final, images)
    assert [tensor.lost for tensor in cut.tensors] == [tensor.lost for tensor in whole.tensors]
    for one, other in zip(whole.tensors, cut.tensors, strict=True):
        assert one.decibels == pytest.approx(other.decibels, abs=2 * ROUNDING)


def test_a_channel_beside_a_large_one_is_lost() -> None:
    """Channel 2 is 1e4 times as large: the others lie below half a step of the tensor's grid."""
    w = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    w[2] *= 1e4
    model = float_model("outlier", (3, 4, 4), ["[c] a = Conv(x, w)", "[r] r = Relu(a)", "[d] y = Conv(r, v)"],
                        w=w, v=np.ones((2, 3, 1, 1), np.float32))  # fmt: skip
    images = np.random.default_rng(0).uniform(0, 1, (6, 3, 4, 4)).astype(np.float32)
    found = compare_networks(model, finalized(quantized(model.clone(), [images])), images)
    tensor = found.tensors[1]
    assert (tensor.layer, tensor.channels, tensor.lost) == ("Conv 'c'", 3, (0, 1))
    assert tensor.largest[0] == 2
    assert tensor.largest[1] == pytest.approx(1e4, rel=0.2)


def test_no_noise_and_no_signal() -> None:
    """Integers on their grid are exact, and so are zeros; neither is a division by zero."""
    model = float_model("exact", (1, 2, 2), ["[c] y = Conv(x, w)"], w=np.full((1, 1, 1, 1), 127, np.float32))
    images = np.array([-3, -2, -1, 0, 0, 1, 2, 3], np.float32).reshape(2, 1, 2, 2)
    found = compare_networks(model, finalized(quantized(model.clone(), [images])), images)
    assert [tensor.decibels for tensor in found.tensors] == [MOST_DECIBELS] * 2
    found = compare_networks(model, finalized(quantized(model.clone(), [images])), np.zeros_like(images))
    assert [tensor.decibels for tensor in found.tensors] == [MOST_DECIBELS] * 2


def test_what_is_not_finite_is_named() -> None:
    model = float_model(
        "nan", (1, 2, 2), ["[c] a = Conv(x, w)", "[log] y = Log(a)"], w=np.ones((1, 1, 1, 1), np.float32)
    )
    images = np.random.default_rng(0).uniform(1, 2, (4, 1, 2, 2)).astype(np.float32)
    final = finalized(quantized(model.clone(), [images]))
    assert constant_input(final.graph[-1], 0) is None
    with pytest.raises(ModelError, match="Log 'log': tensor 'y' of the float network has NaN or infinite values"):
        compare_networks(model, final, -images)


@pytest.mark.parametrize(
    ("ending", "output"),
    [("ArgMax<axis=1, keepdims=0>", "int64[N]"), ("Softmax<axis=1>", "float[N, 4]")],
)
def test_choices_of_a_tail(ending: str, output: str) -> None:
    rng = np.random.default_rng(5)
    nodes = f"[f] flat = Flatten(x) [l] g = Gemm(flat, w) [a] y = {ending}(g)"
    weight = rng.normal(size=(8, 4)).astype(np.float32)
    model = build(f"tail (float[N, 2, 2, 2] x) => ({output} y) {{ {nodes} }}", w=weight)
    images = rng.normal(size=(30, 2, 2, 2)).astype(np.float32)
    found = compare_networks(model, finalized(quantized(model.clone(), [images])), images)
    assert found.agreement is not None
    assert 0.8 < found.agreement <= 1


def test_channels_are_none_where_the_batch_stands_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a sequence whose time comes first: pieces of unlike numbers of samples are compared as a whole."""
    net = Network(4, 6)
    products = [net.op("MatMul", "x", net.constant(net.floats(6, 5))) for _ in range(2)]
    turned = [net.op("Transpose", product, perm=[1, 0, 2]) for product in products]
    heads = [net.op("Reshape", each, net.constant(np.array([2, 2, -1, 5]))) for each in turned]
    flat = [net.op("Reshape", each, net.constant(np.array([2, -1, 5]))) for each in heads]
    total = net.op("Relu", net.op("Add", *flat, name="sum"))
    net.op("MatMul", total, net.constant(net.floats(5, 3)))
    monkeypatch.setattr(pieces, "_PIECE_VALUES", 300)
    found, _, _ = compared(net, net.inputs(7))
    (tensor,) = [tensor for tensor in found.tensors if tensor.layer == "Add 'sum'"]
    assert (tensor.lost, tensor.channels) == ((), 1)


@pytest.mark.parametrize("size", [1e-30, 1e-11, 1.0, 1e11, 1e30])
def test_decibels_whatever_the_magnitude(size: float) -> None:
    """Squares of 1e-30 and 1e30 are none that float32 has."""
    draw = np.random.default_rng(0)
    x = (size * draw.normal(size=(2, 3, 40, 500))).astype(np.float32)
    noisy = x + (size / 256 * draw.normal(size=x.shape)).astype(np.float32)
    sums = _Sums(by_channel=True)
    sums.add(x, noisy, None)
    signal, noise = (float(np.square(part).sum()) for part in (x.astype(float), x - noisy.astype(float)))
    assert sums.decibels == pytest.approx(10 * math.log10(signal / noise), abs=SUMMED)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int64])
def test_outputs_that_are_no_floats(kind: type[np.generic]) -> None:
    sums = _Sums(by_channel=False)
    sums.add(np.array([[0, 1, 1]]).astype(kind), np.array([[1, 1, 0]]).astype(kind), None)
    assert (sums.signal, sums.noise) == (2.0, 2.0)
