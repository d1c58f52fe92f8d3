"""Batch normalization as integers: how far they are from the real map, and which bounds they keep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith import multiplier
from qpipe.arith.multiplier import (
    BIAS_LIMIT,
    FLOAT32_EXACT,
    IntegerAffine,
    fit,
    fit_alone,
    shift_bound,
)
from qpipe.arith.quantize import MAX_SHIFT
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import NO_FLOOR
from qpipe.formats.base import Around
from qpipe.formats.fixed_point import FixedPoint

OUTPUTS = [
    *(QuantSpec.unsigned(b, 0) for b in (2, 4, 8)),
    *(QuantSpec.signed(b, 0) for b in (2, 4, 8)),
    QuantSpec(0, 0, 192),
    QuantSpec.around(0, 242),
]

EIGHT_BITS = FixedPoint()
OUTPUT = QuantSpec.unsigned(8, -4)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """A small weight matrix and an affine map behind it, on any grids."""
    channels, size = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.standard_normal((channels, size)) * 2.0 ** draw(st.integers(-30, 10))
    rows[rng.random(channels) < 0.1] = 0
    special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 255 / 256, 511 / 512, 1e-30, -1e-300, 2.0**-64])
    k = [draw(st.one_of(numbers(-1e3, 1e3), special)) * 2.0 ** draw(st.integers(-12, 12)) for _ in range(channels)]
    bits, exponent = draw(st.sampled_from([4, 8])), draw(st.integers(-20, 12))
    source = draw(st.sampled_from([QuantSpec.unsigned, QuantSpec.signed]))(bits, exponent)
    template = draw(st.sampled_from(OUTPUTS))
    output = QuantSpec(draw(st.integers(-20, 12)), template.qmin, template.qmax, template.zero_point)
    return {
        "rows": rows.astype(np.float32),
        "k": np.array(k),
        "beta": np.array([draw(numbers(-100, 100)) for _ in range(channels)]) * output.scale,
        "mean": np.array([draw(numbers(-100, 100)) for _ in range(channels)]) * source.scale,
        "source": source,
        "output": output,
    }


def integers_of(
    rows: np.ndarray, k: np.ndarray, beta: np.ndarray, mean: np.ndarray, source: QuantSpec, output: QuantSpec | None,
    spec: FixedPoint = EIGHT_BITS, *, in_torch: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, IntegerAffine]:  # fmt: skip
    """Codes, exponents, the weight sum and the integers; torch's as numpy arrays."""
    xp: Any = torch if in_torch else np
    arrays = [torch.from_numpy(a) if in_torch else a for a in (rows, k, beta, mean)]
    codes, exponent = spec.quantize(arrays[0], Around(arrays[1], arrays[2], source, output))
    total = xp.sum(abs(codes), axis=1, dtype=xp.float64) * source.largest
    found = fit(*arrays[1:], weight_exponent=exponent, input_exponent=source.exponent, output=output, weight_sum=total)
    return np.asarray(codes), np.asarray(exponent), np.asarray(total), IntegerAffine(
        *(np.asarray(getattr(found, name)) for name in ("sign", "multiplier", "exponent", "bias", "shift"))
    )  # fmt: skip


@given(layer=layers(), per_channel=st.booleans(), bits=st.sampled_from([4, 8]))
@settings(max_examples=300)
def test_the_bounds_are_kept_always(layer: dict[str, Any], per_channel: bool, bits: int) -> None:
    spec = FixedPoint(bits=bits, per_channel=per_channel)
    _, exponent, total, found = integers_of(**layer, spec=spec)
    output, source = layer["output"], layer["source"]
    m, n = found.multiplier, found.shift
    assert np.all((m >= 1) & (m <= 255) & (m == np.round(m)))
    assert np.all(np.abs(found.bias) <= BIAS_LIMIT)
    np.testing.assert_array_equal(found.bias, np.round(found.bias))
    np.testing.assert_array_equal(n, output.exponent - source.exponent - exponent - found.exponent)
    in_float32 = ((total + np.abs(found.bias)) * m <= FLOAT32_EXACT) & (n <= MAX_SHIFT)
    assert np.all((n <= shift_bound(output)) | in_float32)
    # What is written as float32: weight scales, before and after m, and those of biases.
    for scale in (np.ldexp(1.0, exponent), np.ldexp(m, exponent + found.exponent)):
        assert np.all((scale >= 2.0**-126) & (scale < 2.0**126))


@given(layer=layers())
def test_numpy_equals_torch(layer: dict[str, Any]) -> None:
    *arrays, ours = integers_of(**layer)
    *others, theirs = integers_of(**layer, in_torch=True)
    for a, b in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("sign", "multiplier", "exponent", "bias", "shift"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name), err_msg=name)


@given(layer=layers())
def test_how_far_the_integers_are(layer: dict[str, Any]) -> None:
    """k to half a unit of the multiplier's bits, the bias to half an accumulator step, signs apart."""
    _, exponent, _, found = integers_of(**layer)
    output, source = layer["output"], layer["source"]
    for c, k in enumerate(layer["k"]):
        unit = math.ldexp(1.0, int(exponent[c]) + source.exponent)
        m, e = found.multiplier[c], int(found.exponent[c])
        step = math.ldexp(m, e) * unit
        if found.sign[c] == 0:
            target = layer["beta"][c] - k * layer["mean"][c]
        else:
            assert found.sign[c] == math.copysign(1, k)
            # A multiplier of b bits (before trailing zeros go) errs by half a unit in 2**(b - 1) at most; one bit is
            # always left, and then it is a power of two.
            assert 2 / 3 <= math.ldexp(m, e) / abs(k) <= 4 / 3 + 1e-12
            unshortened = output.exponent - source.exponent - exponent[c] - (math.frexp(k)[1] - 8)
            if unshortened <= shift_bound(output):
                assert abs(math.ldexp(m, e) / abs(k) - 1) <= 2.0**-8
            target = layer["beta"][c] - found.sign[c] * math.ldexp(m, e) * layer["mean"][c]
        if abs(target) < BIAS_LIMIT / 2 * step:
            assert abs(found.bias[c] * step - target) <= step / 2 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("k", "m", "e"),
    [(1.0, 128, -7), (0.5, 128, -8), (255 / 256, 255, -8), (511 / 512, 128, -7), (1.5, 192, -7), (-3.0, 192, -6)],
)
def test_split(k: float, m: float, e: int) -> None:
    """511/512 is a tie between 255 and 256; half to even carries to the next power of two."""
    mantissa, exponent = multiplier.split(np.array([k]))
    assert (mantissa.tolist(), exponent.tolist()) == ([m], [e])


def affine(k: float, beta: float = 0.0, mean: float = 0.0, *, weight_exponent: int = -7, weight_sum: float = 1e7,
           output: QuantSpec | None = OUTPUT) -> IntegerAffine:  # fmt: skip
    return fit(
        np.array([k]), np.array([beta]), np.array([mean]), weight_exponent=np.array([weight_exponent]),
        input_exponent=-4, output=output, weight_sum=np.array([weight_sum]),
    )  # fmt: skip


def test_the_multiplier_is_as_short_as_it_can_be() -> None:
    assert affine(0.75).multiplier.tolist() == [3]
    assert affine(1.0).multiplier.tolist() == [1]
    assert affine(200 / 256).multiplier.tolist() == [25]


def test_shortened_where_the_shift_is_too_large() -> None:
    found = affine(200 / 256 + 1 / 256, weight_exponent=-14)  # 201 is odd: n is 22
    assert found.shift.tolist() == [16]
    assert found.multiplier.tolist() == [3]
    # Where float32 holds every product, it need not be.
    found = affine(201 / 256, weight_exponent=-14, weight_sum=80000.0)
    assert (found.shift.tolist(), found.multiplier.tolist()) == ([22], [201])
    # The bias counts too.
    found = affine(201 / 256, beta=1.0, weight_exponent=-14, weight_sum=80000.0)
    assert found.shift.tolist() == [16]


def test_a_channel_whose_bound_cannot_be_had_becomes_its_constant() -> None:
    found = affine(1.0, beta=2.5, weight_exponent=-30)
    assert found.sign.tolist() == [0]
    assert found.multiplier.tolist() == [1]
    assert found.bias * 2.0**-found.shift * QuantSpec.unsigned(8, -4).scale == 2.5


def test_a_zero_multiplier_keeps_its_offset() -> None:
    for k in (0.0, -0.0, 1e-30, -1e-300):
        found = affine(k, beta=-0.3)
        assert found.sign == 0
        assert found.multiplier == 1
        assert found.bias == round(-0.3 * 16 * 2**8)


def test_a_negative_multiplier() -> None:
    found = affine(-0.5, beta=1.0, mean=0.25)
    assert found.sign == -1
    # y = -0.5 (conv - 0.25) + 1 = 0.5 ((-conv) + 0.25) + 1, in units of 2**-11.
    assert found.bias == (1.0 / 0.5 + 0.25) * 2**11


def test_a_last_layer_has_no_multiplier() -> None:
    found = affine(1.0, beta=0.7, output=None)
    assert (found.multiplier.tolist(), found.exponent.tolist()) == ([1], [0])
    assert found.bias == round(0.7 * 2**11)


@given(beta=st.floats(-1e20, 1e20), scale=st.integers(-100, 3))
def test_a_last_layers_bias_fits_int32(beta: float, scale: int) -> None:
    rows = np.full((2, 3), 2.0**scale, np.float32)
    ones, source = np.ones(2), QuantSpec.unsigned(8, -4)
    *_, found = integers_of(
        rows, ones, np.array([beta, 0.0]), 0 * ones, source, None, FixedPoint(per_channel=False)
    )  # fmt: skip
    assert np.all(np.abs(found.bias) <= BIAS_LIMIT)


def test_shift_bound() -> None:
    assert shift_bound(QuantSpec.unsigned(8, 0)) == 16
    assert shift_bound(QuantSpec.signed(8, 0)) == 17
    assert shift_bound(QuantSpec.around(0, 94)) == shift_bound(QuantSpec.around(0, 242)) == 16
    assert shift_bound(QuantSpec.unsigned(4, 0)) == 20
    assert shift_bound(QuantSpec.unsigned(2, 0)) == 22
    assert shift_bound(QuantSpec.signed(2, 0)) == 22, "float32 would hold 23, int32 does not"


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_bound_keeps_float32_exact(output: QuantSpec) -> None:
    """At the bound every product that does not saturate is at most 2**24, and no later, unless int32 ends before.

    What rounds to the least code and is beyond it saturates to it.
    """
    n, most = shift_bound(output), max(output.qmax, -output.qmin - 1)
    assert (most + 0.5) * 2**n <= FLOAT32_EXACT
    assert output.largest * 2**n <= FLOAT32_EXACT
    if output.qmax != 192 and n < MAX_SHIFT:
        assert (most + 0.5) * 2 ** (n + 1) > FLOAT32_EXACT


def test_one_dead_channel_leaves_a_tensors_scale_alone() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 9)).astype(np.float32)
    source, output = QuantSpec.unsigned(8, -4), QuantSpec.unsigned(8, -4)
    spec = FixedPoint(per_channel=False)
    alive = spec.quantize(rows, Around(np.ones(3), np.zeros(3), source, output))[1]
    dead = spec.quantize(rows, Around(np.array([1, 1e-12, 0]), np.zeros(3), source, output))[1]
    assert dead.tolist() == alive.tolist()
    assert np.all(alive > NO_FLOOR)


@given(
    k=st.lists(st.one_of(numbers(-50, 50), st.just(0.0), st.just(1e-30)), min_size=1, max_size=5),
    source=st.sampled_from([QuantSpec.unsigned(8, -5), QuantSpec.signed(8, 2), QuantSpec.unsigned(4, 0)]),
    output=st.sampled_from([QuantSpec.unsigned(8, -5), QuantSpec.signed(8, -2), QuantSpec.unsigned(4, 3)]),
    seed=st.integers(0, 99),
)
def test_fit_alone(k: list[float], source: QuantSpec, output: QuantSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    factor, beta, mean = np.array(k), rng.standard_normal(len(k)), rng.standard_normal(len(k))
    codes, exponent, found = fit_alone(factor, beta, mean, source=source, output=output)
    tensors = [torch.from_numpy(a) for a in (factor, beta, mean)]
    codes_t, exponent_t, found_t = fit_alone(*tensors, source=source, output=output)
    for ours, theirs in ((codes, codes_t), (exponent, exponent_t), (found.bias, found_t.bias)):
        np.testing.assert_array_equal(theirs.numpy(), ours)
    assert np.all(found.multiplier == 1)
    assert np.all(np.abs(codes) <= 127)
    assert np.all(found.shift <= shift_bound(output))
    unit = np.ldexp(1.0, exponent + found.exponent)
    value = np.where(found.sign == 0, 0, codes) * np.ldexp(1.0, exponent)
    np.testing.assert_array_equal(codes, FixedPoint().stored_codes(factor[:, None], exponent)[:, 0])
    # What is added, to half a step of the product.
    error = found.bias * unit * source.scale - (beta - value * mean)
    assert np.all(np.abs(error) <= unit * source.scale / 2 + np.abs(value * mean) * 1e-12)
