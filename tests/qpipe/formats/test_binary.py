"""Signs: in numpy, in torch and as the ONNX function of the trainable file; and the table of an activation's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable
from qpipe.formats.base import Around
from qpipe.formats.binary import (
    SIGNS,
    Binary,
    codes_function,
    is_sign,
    magnitudes,
    nominal_exponent,
    sign_codes,
    sign_table,
)
from support.weight_functions import codes_by

ROWS = arrays(np.float32, (3, 8), elements=st.one_of(st.floats(-4, 4, width=32), st.just(0.0), st.just(-0.0)))


@given(rows=ROWS)
def test_numpy_torch_and_the_file_agree(rows: np.ndarray) -> None:
    codes = sign_codes(rows)
    assert codes.dtype == np.float32
    np.testing.assert_array_equal(codes, np.where(rows < 0, -1, 1))
    np.testing.assert_array_equal(sign_codes(torch.from_numpy(rows)).numpy(), codes)
    np.testing.assert_array_equal(function_codes(rows), codes)


def function_codes(weight: np.ndarray) -> np.ndarray:
    return codes_by(Binary.codes_op, codes_function().to_function_proto(), weight)


def test_zero_is_positive() -> None:
    assert sign_codes(np.array([0.0, -0.0, -1e-30], np.float32)).tolist() == [1, 1, -1]
    table = sign_table(QuantSpec.signed(8, -5))
    assert [table.entries[code] - 128 for code in (1, 127, 128, 129, 255)] == [-1, -1, 1, 1, 1]
    assert table.levels()[[127, 128]].tolist() == [-1.0, 1.0]


def test_a_table_of_signs_is_known_as_one() -> None:
    for before in (QuantSpec.signed(8, -5), QuantSpec.signed(4, 0), QuantSpec.unsigned(8, -2)):
        assert is_sign(sign_table(before))
        assert sign_table(before).grid == SIGNS
    before = QuantSpec.signed(8, -5)
    flipped = CodeTable(before, SIGNS, tuple(256 - entry for entry in sign_table(before).entries))
    assert not is_sign(flipped)
    assert not is_sign(SIGNS)


@given(seed=st.integers(0, 99))
def test_the_mean_magnitude_is_the_scale_of_least_error(seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((4, 30)).astype(np.float32)
    codes, mean = sign_codes(rows), magnitudes(rows)
    for row, code, scale in zip(rows, codes, mean, strict=True):
        np.testing.assert_allclose(np.linalg.lstsq(code[:, None], row, rcond=None)[0][0], scale, rtol=1e-6)
    np.testing.assert_array_equal(magnitudes(torch.from_numpy(rows)).numpy(), mean)


@pytest.mark.parametrize(("scale", "exponent"), [(1.0, 0), (0.7, -1), (0.72, 0), (2.0**-9, -9), (0.0, 0)])
def test_the_nominal_scale_is_the_nearest_power_of_two(scale: float, exponent: int) -> None:
    assert nominal_exponent(np.full((2, 3), -scale, np.float32)) == exponent


def test_one_exponent_for_all_channels_whatever_the_affine_map() -> None:
    rows, spec = np.array([[0.5, -3.0], [0.0, -1e-9]], np.float32), Binary(-5)
    codes, exponent = spec.quantize(rows, Around(np.array([1e-9, -3.0]), np.full(2, 1e6), SIGNS, None))
    assert exponent.tolist() == [-5, -5]
    for other in (codes, spec.codes_at(rows, exponent), spec.stored_codes(rows, exponent)):
        assert other.tolist() == [[1, -1], [1, -1]]
    assert (spec.bits, spec.code_bits, spec.qmax, spec.per_channel) == (1, 2, 1, True)
