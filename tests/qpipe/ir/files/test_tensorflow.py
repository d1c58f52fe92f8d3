"""What Keras' Gelu and Celu are in a file of tf2onnx."""

import math

import numpy as np
import pytest

import qpipe
from qpipe.ir.files.load import LoadingNote, load_model
from support.networks import parse
from support.run import run_as_written

ROUNDING = 2.0**-22
"""Of 1 - erf(x) in float32, whose result is up to 2."""


def test_it_is_one_less_erf() -> None:
    proto = parse("(float[N,4] x) => (float[N,4] y) { [gelu] y = Erfc(x) }")
    with pytest.warns(LoadingNote, match="Erfc 'gelu' is no operator of ONNX: it is written in those, 1 in all"):
        model = load_model(proto)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    expected = np.vectorize(math.erfc)(x.astype(np.float64))
    np.testing.assert_allclose(run_as_written(model, x=x)[0], expected, rtol=0, atol=ROUNDING)


def test_gelu_as_keras_has_it_is_one_curve() -> None:
    text = """(float[N,4] x) => (float[N,3] y) { a = Gemm(x, w) h = Mul(half, a) n = Neg(a) s = Mul(n, root)
        e = Erfc(s) g = Mul(h, e) y = Gemm(g, v) }"""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 8)), "v": rng.standard_normal((8, 3)), "half": 0.5, "root": 0.5**0.5}
    proto = parse(text, **{name: np.array(array, np.float32) for name, array in weights.items()})
    found = qpipe.inspect(proto)
    assert [node.op for node in found.nodes] == ["Gemm", "Gelu", "Gemm"]


def test_celu_as_keras_has_it_is_one_curve() -> None:
    """`max(x, 0) + min(alpha expm1(x / alpha), 0)`"""
    text = """(float[N,4] x) => (float[N,3] y) { a = Gemm(x, w) r = Relu(a) m = Min(a, zero) [celu] e = Expm1(m)
        s = Add(r, e) y = Gemm(s, v) }"""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 8)), "v": rng.standard_normal((8, 3)), "zero": 0}
    proto = parse(text, **{name: np.array(array, np.float32) for name, array in weights.items()})
    with pytest.warns(LoadingNote, match="Expm1 'celu' is no operator of ONNX"):
        model = load_model(proto)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    a = x @ weights["w"]
    expected = np.where(a > 0, a, np.expm1(np.minimum(a, 0))) @ weights["v"]
    # Sums of 8 products in float32.
    np.testing.assert_allclose(run_as_written(model, x=x)[0], expected, rtol=0, atol=1e-4)
    found = qpipe.inspect(proto)
    assert [node.op for node in found.nodes] == ["Gemm", "Elu", "Gemm"]
