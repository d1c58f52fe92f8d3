"""DoReFa-Net's weights: the paper's equation, in numpy, in torch and as the ONNX function of the trainable file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qpipe.arith.spec import QuantSpec
from qpipe.formats.base import Around
from qpipe.formats.dorefa import DoReFa, codes_function, dorefa_codes, nominal_exponent, unrounded
from support.weight_functions import codes_by

BITS = st.integers(2, 7)
FLOAT64_EDGE = 1e-12
"""In codes: what a few roundings of float64 and tanh make of numbers up to 127."""
FLOAT32_EDGE = 1e-4
"""In codes: a few units in the last place of float32 (2**-24 each), times 127."""


@st.composite
def weight_rows(draw: st.DrawFn) -> np.ndarray:
    """Float32 `[C, K]`: values of one size, zeros, repeated and coarse ones, which lie on edges between codes."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 12)))
    coarse = st.integers(-40, 40).map(lambda v: v / 8)
    fine = st.floats(-4, 4, width=32, allow_subnormal=False)
    rows = draw(arrays(np.float32, shape, elements=st.one_of(coarse, fine, st.just(0.0))))
    return rows * np.float32(2.0 ** draw(st.integers(-30, 3)))


def equation(weight: np.ndarray, bits: int) -> np.ndarray:
    """`2 quantize_k(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1`, one number after the other (Zhou et al. 2016, eq. 9)."""
    levels = 2**bits - 1
    largest = max(abs(math.tanh(w)) for w in weight.reshape(-1).tolist())

    def quantize_k(r: float) -> float:
        return round(levels * r) / levels

    one = [2 * quantize_k(math.tanh(w) / (2 * largest) + 0.5) - 1 for w in weight.reshape(-1).tolist()]
    return np.array(one).reshape(weight.shape)


def on_an_edge(weight: np.ndarray, bits: int, width: float) -> np.ndarray:
    """Where the number of steps is so near a half that rounding it hangs on the last bits of a float."""
    steps = (unrounded(weight.astype(np.float64), bits) + 2**bits - 1) / 2
    return np.abs(steps - np.floor(steps) - 0.5) <= width


def normal(*shape: int, scale: float = 0.1, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@example(rows=np.array([[5.9e-39]], np.float32), bits=2)
@given(rows=weight_rows(), bits=BITS)
def test_the_codes_are_those_of_the_equation(rows: np.ndarray, bits: int) -> None:
    codes = dorefa_codes(rows, bits)
    assert codes.dtype == np.float32
    assert np.all(codes % 2 == 1)  # odd
    assert np.abs(codes).max() <= DoReFa(bits, 0).qmax
    if rows.any():
        sure = ~on_an_edge(rows, bits, FLOAT64_EDGE) | (rows == 0)
        expected = equation(rows, bits) * (2**bits - 1)
        np.testing.assert_array_equal(codes[sure], np.round(expected)[sure])
        # The largest weight has the largest code.
        assert np.abs(codes).max() == DoReFa(bits, 0).qmax == 2**bits - 1


@pytest.mark.parametrize("bits", range(2, 8))
def test_every_code_is_used(bits: int) -> None:
    """Evenly spaced tanh: the two end levels have half a step each, as quantize_k has it."""
    codes = dorefa_codes(np.arctanh(np.linspace(-0.999, 0.999, 5000)).astype(np.float32), bits)
    assert sorted(set(codes.tolist())) == list(range(-(2**bits) + 1, 2**bits, 2))
    assert np.all(np.diff(codes) >= 0)


@given(rows=weight_rows(), bits=BITS)
def test_numpy_and_torch_agree(rows: np.ndarray, bits: int) -> None:
    found = dorefa_codes(torch.from_numpy(rows), bits)
    assert found.dtype == torch.float32
    sure = ~on_an_edge(rows, bits, FLOAT64_EDGE) | (rows == 0)
    np.testing.assert_array_equal(found.numpy()[sure], dorefa_codes(rows, bits)[sure])


@pytest.mark.parametrize("bits", range(2, 8))
def test_weights_of_zero(bits: int) -> None:
    """There is no code 0: zero lies between -1 and 1, and goes to the even one of the two levels."""
    codes = dorefa_codes(np.zeros((2, 3), np.float32), bits)
    assert np.all(np.abs(codes) == 1)
    np.testing.assert_array_equal(dorefa_codes(torch.zeros(2, 3), bits).numpy(), codes)
    np.testing.assert_array_equal(function_codes(np.zeros((2, 3), np.float32), bits), codes)
    assert nominal_exponent(np.zeros((2, 3)), codes) == 0


def function_codes(weight: np.ndarray, bits: int) -> np.ndarray:
    """What onnxruntime computes by the function that a trainable file holds."""
    return codes_by(DoReFa.codes_op, codes_function().to_function_proto(), weight, f"<bits={bits}>")


@example(rows=normal(16, 72), bits=7)
@example(rows=np.array([[7.9518845e-31]], np.float32), bits=3)
@example(rows=np.array([[5.9e-39, -3e-39, 1e-45]], np.float32), bits=2)
@example(rows=np.array([[1e-45]], np.float32), bits=2)
@given(rows=weight_rows(), bits=BITS)
def test_the_function_gives_the_same_codes(rows: np.ndarray, bits: int) -> None:
    sure = ~on_an_edge(rows, bits, FLOAT32_EDGE) | (rows == 0)
    np.testing.assert_array_equal(function_codes(rows, bits)[sure], dorefa_codes(rows, bits)[sure])


@given(seed=st.integers(0, 99), bits=BITS, power=st.integers(-12, 3))
def test_the_nominal_scale_brings_the_codes_near_the_weights(seed: int, bits: int, power: int) -> None:
    """No other power of two is nearer, in octaves, to the factor of least squared error."""
    weight = normal(8, 30, scale=2.0**power, seed=seed).astype(np.float64)
    codes = dorefa_codes(weight, bits)
    factor = np.linalg.lstsq(codes.reshape(-1, 1), weight.reshape(-1), rcond=None)[0][0]
    assert abs(np.log2(factor) - nominal_exponent(weight, codes)) <= 0.5 + 1e-9  # two ways to the same logarithm


def test_one_exponent_for_all_channels_whatever_the_affine_map() -> None:
    rows, spec = normal(4, 10), DoReFa(3, -5)
    source = QuantSpec.unsigned(4, -4)
    for k, beta in ((np.ones(4), np.zeros(4)), (np.array([1e-9, 3.0, -1.0, 0.0]), np.full(4, 1e6))):
        codes, exponent = spec.quantize(rows, Around(k, beta, source, None))
        assert exponent.tolist() == [-5] * 4
        np.testing.assert_array_equal(codes, dorefa_codes(rows, 3))
        for other in (spec.codes_at, spec.stored_codes):
            np.testing.assert_array_equal(other(rows, exponent), codes)
    assert (spec.code_bits, spec.qmax, spec.per_channel) == (4, 7, True)
