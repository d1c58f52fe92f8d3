"""Tensors that reach further on one side of 0 have half the steps around another zero point; integers stay exact."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from qpipe.arith.spec import SIGNED_ZERO_POINT
from qpipe.ir.quantized.view import read_view
from support.networks import Network
from support.quantize import finalized
from support.run import assert_exact, run


def below_zero(n: Network, x: str, fan_in: int, out: int) -> str:
    """A convolution whose results lie from about -5 to 1."""
    weight = n.constant(n.floats(out, fan_in, 3, 3, scale=0.8 / (3 * fan_in**0.5)))
    return n.op("Conv", x, weight, n.constant(np.full(out, -2, np.float32)), pads=[1, 1, 1, 1])


@pytest.fixture(scope="module")
def network() -> tuple[ir.Model, np.ndarray]:
    """Such tensors in a sum, a product, pools, a Concat, behind a Sigmoid and before convolutions with borders."""
    n = Network(3, 8, 8)
    x = n.inputs(64)
    a, b = below_zero(n, "x", 3, 4), below_zero(n, "x", 3, 4)
    gated = n.op("Mul", a, n.op("Sigmoid", below_zero(n, a, 4, 4)))
    total = n.op("Add", gated, b)
    pooled = n.op("AveragePool", total, kernel_shape=[4, 4], strides=[2, 2])
    largest = n.op("MaxPool", b, kernel_shape=[4, 4], strides=[2, 2])
    both = n.op("Concat", pooled, largest, axis=1)
    rest = below_zero(n, both, 8, 4)
    y = n.head(n.op("Relu", n.op("Sub", rest, n.op("LeakyRelu", n.conv(rest, 4, 4)))), 4)
    return qpipe.calibrate(n.proto(y), x, batches=1, batch_size=64), x


def test_zero_points_are_even_and_beside_the_middle(network: tuple[ir.Model, np.ndarray]) -> None:
    found = {
        layer.op_type: layer.quantizer.rounded_to.zero_point
        for layer in read_view(network[0]).layers
        if layer.quantizer is not None and layer.quantizer.rounded_to.is_signed
    }
    assert all(zero % 2 == 0 for zero in found.values())
    assert {name for name, zero in found.items() if zero > SIGNED_ZERO_POINT} >= {"Mul", "Add", "AveragePool", "Concat"}


@pytest.mark.parametrize("kind", ["qoperator", "integer", "qdq"])
def test_every_integer_of_the_exports_is_equal(kind: str, network: tuple[ir.Model, np.ndarray], tmp_path: Path) -> None:
    model, x = network
    # The gate compares every integer with the oracle, the certificate has proven every layer.
    exported = qpipe.export(model, tmp_path / "net.onnx", data=x[:16], format=kind)
    (found,), (expected,) = (run(each, x[16:]) for each in (exported, finalized(model)))
    np.testing.assert_array_equal(found, expected)


def test_training_evaluates_what_the_file_says(network: tuple[ir.Model, np.ndarray]) -> None:
    assert_exact(network[0].clone(), network[1][:16])
