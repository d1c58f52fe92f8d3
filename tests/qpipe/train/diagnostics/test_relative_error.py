"""The average relative error as it is defined: by hand, and over tensors of many magnitudes."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.mls.formats import ElementFormat, Grouping, MlsFormat
from qpipe.arith.mls.quantize import quantize
from qpipe.train.diagnostics.relative_error import below_half, group_maxima, relative_errors

IN_FLOAT32 = 1e-5  # relative: each number's error is a float32 quotient, and half of the last digit is in it
LAST_DIGIT = 1e-7  # absolute, of a mean: of quotients that are 0 but for float32's rounding


def fmt(exponent: int, mantissa: int, grouping: Grouping = "none") -> MlsFormat:
    return MlsFormat(ElementFormat(exponent, mantissa), grouping)


def relative_error(x: torch.Tensor, fmt: MlsFormat) -> float:
    (found,) = relative_errors(x, [fmt]).tolist()
    return float(found)


def test_by_hand() -> None:
    """⟨0, 3⟩ has eighths up to 7/8: 1 errs by 1/8, 1/2 not, 1/20 becomes zero, and a zero does not count."""
    x = torch.tensor([[1.0, 0.5], [-0.05, 0.0]])
    assert relative_error(x, fmt(0, 3)) == pytest.approx((1 / 8 + 0 + 1) / 3, rel=IN_FLOAT32)
    # With an exponent 1/20 is a subnormal number of ⟨2, 3⟩, whose grid has sixty-fourths there; 1 becomes 15/16.
    errors = (1 / 16, 0, abs(3 / 64 - 0.05) / 0.05)
    assert relative_error(x, fmt(2, 3)) == pytest.approx(sum(errors) / 3, rel=IN_FLOAT32)
    # In a group of its own -1/20 is the largest, of a scale that is rounded up to 1/16: -1/20 is 4/5 of it, thus 6/8.
    errors = (1 / 8, 0, abs(6 / 128 - 0.05) / 0.05)
    assert relative_error(x, fmt(0, 3, "n")) == pytest.approx(sum(errors) / 3, rel=IN_FLOAT32)


numbers = st.builds(
    lambda m, e: m * 2.0**e, st.sampled_from([0.0, 1.0, -1.0, 1.3125, -1.7, 0.01]), st.integers(-60, 60)
)
tensors = hnp.arrays(np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=4), elements=numbers.map(np.float32))


@given(tensors, st.integers(0, 3), st.integers(1, 4), st.sampled_from(["none", "n", "c", "nc"]))
def test_it_is_the_mean_over_what_is_not_zero(x: np.ndarray, exponent: int, mantissa: int, grouping: Grouping) -> None:
    tensor = torch.from_numpy(x)
    found = relative_error(tensor, fmt(exponent, mantissa, grouping))
    assert np.array_equal(tensor.numpy(), x)
    if not x.any():
        assert np.isnan(found)
        return
    low_bit = quantize(tensor, fmt(exponent, mantissa, grouping), None)
    on_grid = low_bit.values.double().numpy() * low_bit.scale.double().numpy()
    errors = np.abs(on_grid[x != 0] / x[x != 0].astype(np.float64) - 1)
    assert found == pytest.approx(
        errors.mean(), rel=IN_FLOAT32, abs=1e-7
    )  # a quotient's own rounding, where all is exact
    assert found <= 1
    assert relative_error(4 * tensor, fmt(exponent, mantissa, grouping)) == found


def test_group_maxima_are_magnitudes_by_channel_and_by_sample() -> None:
    x = torch.zeros(2, 3, 4, 4)
    x[0, 0, 1, 1], x[1, 2, 3, 0], x[1, 0, 0, 0] = -8.0, 3.0, 4.0
    found = group_maxima(x)
    assert found["both"].tolist() == [[8, 0, 0], [4, 0, 3]]
    assert found["channel"].tolist() == [8, 0, 3]
    assert found["sample"].tolist() == [8, 4]
    # 4 is half of 8, and not below it.
    assert [below_half(found[split]).item() for split in ("channel", "sample", "both")] == [2 / 3, 0, 4 / 6]
    assert group_maxima(torch.tensor([[1.0, -2.0]]))["both"].tolist() == [[1, 2]]
