import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qpipe.arith.spec import QuantSpec


@pytest.mark.parametrize("bits", range(2, 9))
def test_unsigned(bits: int) -> None:
    spec = QuantSpec.for_range(bits, 3, signed=False)
    assert (spec.exponent, spec.qmin, spec.qmax, spec.zero_point) == (3 - bits, 0, 2**bits - 1, 0)
    assert spec.bits == bits
    assert not spec.is_signed
    assert spec.needs_clip == (bits < 8)
    assert spec.scale * 2**bits == 8.0
    assert spec.log2_ymax == 3


@pytest.mark.parametrize("bits", range(2, 9))
def test_signed_is_narrow_but_where_it_fills_its_type(bits: int) -> None:
    spec = QuantSpec.for_range(bits, -2, signed=True)
    limit, fills = 2 ** (bits - 1) - 1, bits == 8
    assert (spec.exponent, spec.qmin, spec.qmax, spec.zero_point) == (-1 - bits, -limit - fills, limit, 128)
    assert (spec.stored_min, spec.stored_max) == (128 - limit - fills, 128 + limit)
    assert (spec.bits, spec.largest, spec.is_signed, spec.needs_clip) == (bits, limit + fills, True, not fills)
    assert spec.log2_ymax == -2


def test_other_ranges() -> None:
    assert QuantSpec(0, -128, 127, 128).bits == 8
    assert QuantSpec(0, 0, 127, 128).bits == 7
    assert QuantSpec(-3, 0, 48).bits == 6


ENDS = st.floats(0.0, 1.0)


@given(st.integers(-6, 6), ENDS, ENDS)
def test_half_the_steps_where_both_ends_fit(top: int, below: float, above: float) -> None:
    spec = QuantSpec.for_range(8, top, signed=True)
    low, high = -below * 2.0**top, above * 2.0**top
    assume(low < high)
    refined = spec.refined(low, high)
    if refined == spec:
        # A zero point is even, which moves either end by up to a step; two are kept for a side without numbers.
        assert below + above > 1 - 4 / 256
        return
    assert (refined.exponent, refined.zero_point % 2, refined.qmax - refined.qmin) == (spec.exponent - 1, 0, 255)
    assert refined.qmin - 0.5 <= low / refined.scale
    assert high / refined.scale <= refined.qmax + 0.5
    assert refined.bits == 8


@pytest.mark.parametrize("spec", [QuantSpec.unsigned(8, 0), QuantSpec.signed(4, 0), QuantSpec(0, -32, 32, 128)])
def test_no_other_grid_is_refined(spec: QuantSpec) -> None:
    assert spec.refined(-1.0, 2.0) == spec


def test_what_is_refined_already_stays() -> None:
    around = QuantSpec.around(-3, 94)
    low, high = around.qmin * around.scale, around.qmax * around.scale
    assert QuantSpec.for_range(8, 5, signed=True).refined(low, high) == around


@pytest.mark.parametrize("fields", [(0, -1, 5, 0), (0, 0, 256, 0), (0, -129, 0, 128), (0, 3, 2, 0)])
def test_what_does_not_fit_uint8(fields: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit uint8"):
        QuantSpec(*fields)
