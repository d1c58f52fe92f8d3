"""The oracle against numbers worked out in plain Python, and against the executor that trains the same file."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from qpipe.arith.exact import Exact, product_type
from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError
from qpipe.ir.quantized.oracle import layer_result, network_integers
from qpipe.ir.quantized.view import read_view
from qpipe.train.executor import Executor
from support.networks import float_model
from support.oracle import real_output
from support.quantize import finalized, finalized_on_grids, quantized
from support.run import evaluated
from support.zoo.every_op import NETWORKS, build


@pytest.mark.parametrize("network", NETWORKS, ids=lambda build: build.__name__)
def test_the_executor_in_evaluation_gives_the_integers_of_the_oracle(network):
    net, outputs = build(network)
    model, inputs = quantized(net.model(*outputs), net.inputs(16)), net.inputs(4, seed=2)
    spec = finalized(model)
    expected = network_integers(spec, inputs)
    for value, found in zip(spec.graph.outputs, evaluated(Executor(model), inputs), strict=True):
        np.testing.assert_array_equal(found.astype(np.float32), real_output(spec, expected, value).reshape(found.shape))


def test_a_weighted_layer_in_plain_python():
    """`clip(round_half_even((acc + bias) m 2**-n))`, each channel by Python's own integers and fractions."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((4, 3)).astype(np.float32), "b": rng.standard_normal(4).astype(np.float32)}
    constants |= {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in ("g", "t", "m", "v")}
    constants["u"] = rng.standard_normal((2, 4)).astype(np.float32)
    nodes = ["h = Gemm<transB=1>(x, w, b)", "n = BatchNormalization(h, g, t, m, v)", "r = Relu(n)"]
    model = float_model("net", (3,), [*nodes, "y = Gemm<transB=1>(r, u)"], **constants)
    spec = finalized_on_grids(model, lambda: 1)
    layer = read_view(spec).layers[0]
    final, source, target = layer.weight, layer.sources[0].grid, layer.quantizer.rounded_to
    codes = rng.integers(source.stored_min, source.stored_max + 1, (50, 3)).astype(np.uint8)
    found = layer_result(layer, [codes])
    for row, results in zip(codes.tolist(), found.tolist(), strict=True):
        for c, result in enumerate(results):
            weights = [int(final.codes[c, k]) for k in range(3)]
            total = sum(w * (q - source.zero_point) for w, q in zip(weights, row, strict=True)) + int(final.bias[c])
            exponent = source.exponent + int(final.exponent[c]) - target.exponent
            steps = round(total * int(final.multiplier[c]) * Fraction(2) ** exponent)
            assert result == min(max(steps, target.qmin), target.qmax) + target.zero_point


def test_what_is_not_finalized_has_no_integers_yet():
    net, outputs = build(NETWORKS[0])
    with pytest.raises(LoweringError, match="not finalized"):
        network_integers(quantized(net.model(*outputs), net.inputs(4)), net.inputs(1))


@pytest.mark.parametrize("divisor", [1, 3, 7, 13, 15, 49, 12544])
def test_a_quotient_is_rounded_half_to_even_once(divisor):
    spec = QuantSpec.signed(8, 0)
    values = np.arange(-130 * divisor, 130 * divisor, max(divisor // 50, 1))
    expected = [min(max(round(Fraction(int(v), divisor)), -128), 127) for v in values]
    np.testing.assert_array_equal(Exact(values, 0, divisor).rounded(spec), expected)


@pytest.mark.parametrize(("weight", "largest", "kind"), [(2**12, 2**12, "float32"), (2**12 + 1, 2**12, "float64")])
def test_sums_are_added_in_the_type_that_holds_them(weight, largest, kind):
    assert product_type(np.array([[weight]]), largest).__name__ == kind


def test_sums_that_no_type_holds():
    with pytest.raises(OverflowError):
        product_type(np.array([[2**30]]), 2**30)
    with pytest.raises(OverflowError):
        Exact(np.array([2**53]), 0)


def test_no_runtime_takes_part():
    code = "import sys, qpipe.ir.quantized.oracle; print({'onnxruntime', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
