import pytest

from qpipe.arith.spec import QuantSpec


@pytest.mark.parametrize("bits", range(2, 9))
def test_unsigned(bits: int) -> None:
    spec = QuantSpec.for_range(bits, 3, signed=False)
    assert (spec.exponent, spec.qmin, spec.qmax, spec.zero_point) == (3 - bits, 0, 2**bits - 1, 0)
    assert spec.bits == bits
    assert not spec.is_signed
    assert spec.needs_clip == (bits < 8)
    assert spec.scale * 2**bits == 8.0


@pytest.mark.parametrize("bits", range(2, 9))
def test_signed_is_narrow(bits: int) -> None:
    spec = QuantSpec.for_range(bits, -2, signed=True)
    limit = 2 ** (bits - 1) - 1
    assert (spec.exponent, spec.qmin, spec.qmax, spec.zero_point) == (-1 - bits, -limit, limit, 128)
    assert (spec.stored_min, spec.stored_max) == (128 - limit, 128 + limit)
    assert (spec.bits, spec.largest, spec.is_signed, spec.needs_clip) == (bits, limit, True, True)


def test_other_ranges() -> None:
    assert QuantSpec(0, -128, 127, 128).bits == 9  # its magnitude needs a bit more than the narrow range's
    assert QuantSpec(0, 0, 127, 128).bits == 7
    assert QuantSpec(-3, 0, 48).bits == 6


@pytest.mark.parametrize("fields", [(0, -1, 5, 0), (0, 0, 256, 0), (0, -129, 0, 128), (0, 3, 2, 0)])
def test_what_does_not_fit_uint8(fields: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit uint8"):
        QuantSpec(*fields)
