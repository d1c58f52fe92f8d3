"""The exactness condition: each part at its limit and one beyond, and the kernels that make it necessary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.certificate import (
    Certificate,
    add_row,
    pool_row,
    reciprocal_is_exact,
    weighted_row,
)
from qpipe.arith.multiplier import shift_bound
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import as_rows, pair_excess, pair_limit, trim_pairs
from qpipe.formats.fixed_point import FixedPoint
from support.saturating_kernel import exact_matmul, saturating_conv_u8s8, saturating_matmul_u8s8

UNSIGNED, SIGNED = QuantSpec.unsigned(8, 0), QuantSpec.signed(8, 0)


def row(codes, *, op="Conv", multiplier=1, shift=4, bias=0, source=UNSIGNED, output=UNSIGNED, check_pairs=True):
    rows = np.array(codes, np.int64)
    fill = np.ones(len(rows), np.int64)
    return weighted_row(
        "c1", op, rows=rows, bits=8, multiplier=fill * multiplier, shift=None if output is None else fill * shift,
        bias=fill * bias, source=source, output=output, check_pairs=check_pairs,
        fuses=op != "Conv" or output is not None,
    )  # fmt: skip


@pytest.mark.parametrize(("bias", "ok"), [(2**31 - 1 - 255, True), (2**31 - 255, False), (-(2**31 - 255), False)])
def test_accumulator_ends_at_int32(bias, ok):
    found = row([[1]], op="Gemm", bias=bias, output=None)
    assert found.largest_accumulator == 255 + abs(bias)
    assert found.ok == ok
    assert ok or "int32" in found.problems[0]


@pytest.mark.parametrize(("output", "bits"), [(UNSIGNED, 8), (SIGNED, 8), (QuantSpec.unsigned(4, 0), 4)])
def test_shift_ends_at_its_bound(output, bits):
    bound = 24 - bits + output.is_signed
    assert shift_bound(output) == bound
    big = {"multiplier": 255, "bias": 2**20}  # over 2**24, so that only the shift can prove it
    found = row([[1]], shift=min(bound, 22), output=output, **big)
    assert (found.ok, found.by_shift, found.by_float32) == (True, 1, 0)
    assert not row([[1]], shift=bound + 1, output=output, **big).ok


def test_a_small_product_needs_no_shift_bound_but_int32():
    assert row([[1]], shift=22).by_float32 == 1
    assert row([[1]], shift=22).ok
    assert not row([[1]], shift=23).ok


def test_float32_holds_products_up_to_two_to_the_24():
    assert row([[1]], bias=2**24 - 255).exact_in_float32
    assert not row([[1]], bias=2**24 - 254).exact_in_float32


@pytest.mark.parametrize(("pair", "unsafe"), [((64, 64), 0), ((64, 65), 1), ((-64, -65), 1), ((127, -127), 0)])
def test_pairs_end_at_128(pair, unsafe):
    found = row([pair])
    assert (found.unsafe_pairs, found.ok) == (unsafe, not unsafe)
    assert row([pair], check_pairs=False).ok


def test_a_narrow_input_allows_larger_pairs():
    assert row([[127, 127]], source=QuantSpec.unsigned(4, 0)).unsafe_pairs == 0


def test_a_last_convolution_must_be_exact_in_float():
    assert row([[1]], output=None).ok
    assert "2**24" in row([[1]], bias=2**25, output=None).problems[0]


@pytest.mark.parametrize(
    ("exponents", "output", "ok"), [((0, 15), 16, True), ((0, 16), 16, False), ((0, 15), 17, False)]
)
def test_operands_of_an_add_lie_close(exponents, output, ok):
    found = add_row("a", "Add", [QuantSpec.signed(8, e) for e in exponents], QuantSpec.unsigned(8, output))
    assert found.ok == ok


@pytest.mark.parametrize(("op", "count", "output", "ok"), [
    ("AveragePool", 9, 0, True), ("AveragePool", 7, 0, True), ("AveragePool", 7, 1, False),
    ("AveragePool", 14, 0, False), ("AveragePool", 14, -1, True), ("ReduceMean", 14, 0, True),
    ("ReduceMean", 70_000, 0, False),
])  # fmt: skip
def test_average_pools(op, count, output, ok):
    grids = QuantSpec.unsigned(8, 0), QuantSpec.unsigned(8, output)
    found = pool_row("p", op, *grids, counts={count}, divides=op == "ReduceMean")
    assert found.ok == ok


def test_counts_whose_reciprocal_is_inexact():
    assert [n for n in range(1, 64) if not reciprocal_is_exact(n)] == [
        7, 13, 14, 15, 26, 28, 30, 41, 47, 51, 52, 55, 56, 60, 61, 63,
    ]  # fmt: skip


def test_problems_name_the_layer():
    certificate = Certificate("portable", "int8", (row([[127, 127]]), row([[1]])))
    assert certificate.problems[0].startswith("Conv 'c1': 1 pairs of weights over 128")
    assert len(certificate.problems) == 1
    assert [entry["ok"] for entry in certificate.to_json()["layers"]] == [False, True]


@pytest.mark.parametrize(("cpu", "weights", "pairs"), [
    ("portable", "int8", "safe"), ("vnni", "int8", "waived"), ("vnni", "uint8", "not needed"),
])  # fmt: skip
def test_how_pairs_are_dealt_with(cpu, weights, pairs):
    assert Certificate(cpu, weights, ()).to_json()["pairs"] == pairs


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12))
def test_safe_rows_give_exact_sums_on_a_saturating_kernel(seed, channels, size):
    rng = np.random.default_rng(seed)
    codes = trim_pairs(rng.integers(-127, 128, (channels, size)).astype(np.float64), pair_limit(255)).astype(np.int8)
    assert row(codes).ok
    inputs = np.concatenate([rng.integers(0, 256, (8, size)), 255 * (codes > 0), 255 * (codes < 0)]).astype(np.uint8)
    found = saturating_matmul_u8s8(inputs, np.ascontiguousarray(codes.T))
    np.testing.assert_array_equal(found, exact_matmul(inputs, codes.T))


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12))
def test_what_the_certificate_refuses_saturates(seed, channels, size):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (channels, size)).astype(np.int8)
    refused = row(codes).unsafe_pairs
    # Largest codes wherever one channel's weights have one sign.
    wrong = 0
    for channel in codes:
        inputs = np.stack([255 * (channel > 0), 255 * (channel < 0)]).astype(np.uint8)
        one = np.ascontiguousarray(channel[:, None])
        wrong += int((saturating_matmul_u8s8(inputs, one) != exact_matmul(inputs, one)).any())
    assert (wrong > 0) == (refused > 0)


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 3]))
def test_quantized_weights_convolve_exactly_on_a_saturating_kernel(seed, channels, kernel):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((4, channels, kernel, kernel)) * 3
    spec = FixedPoint(pair_limit=pair_limit(255))
    rows, _ = spec.pair_safe(as_rows(weight), np.full(4, -5))
    assert not pair_excess(rows, 128).any()
    codes = rows.reshape(4, kernel, kernel, channels).transpose(0, 3, 1, 2).astype(np.int8)
    x = rng.choice(np.array([0, 255], np.uint8), (2, channels, 5, 5))
    exact = saturating_conv_u8s8(x // 255, codes)  # products of 0 and 1 never saturate
    np.testing.assert_array_equal(saturating_conv_u8s8(x, codes), 255 * exact)
