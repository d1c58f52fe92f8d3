import numpy as np
import onnx_ir as ir
import pytest

from qpipe.ir.quantized.weight_codes import PACKED, signed_codes, stored_bits, stored_weight

NARROWEST = {2: "INT2", 3: "INT4", 4: "INT4", 5: "INT8", 6: "INT8", 7: "INT8", 8: "INT8"}


@pytest.mark.parametrize("weights", ["int8", "uint8"])
@pytest.mark.parametrize("bits", NARROWEST)
def test_every_code_comes_back(bits: int, weights: str) -> None:
    largest = 2 ** (bits - 1) - 1
    codes = np.arange(-largest, largest + 1, dtype=np.int8)[:, None]
    tensor, zero_point = stored_weight(codes, bits, weights)
    packed = tensor.dtype in PACKED
    assert tensor.dtype.name == (NARROWEST[bits] if packed or weights == "int8" else "UINT8")
    assert zero_point == (0 if packed or weights == "int8" else 128)
    read = ir.from_proto(ir.to_proto(tensor))
    np.testing.assert_array_equal(signed_codes(read.numpy(), np.asarray(zero_point)), codes)
    assert stored_bits(tensor.dtype) >= bits


def test_a_packed_weight_is_as_small_as_its_width() -> None:
    codes = np.ones((16, 9), np.int8)
    assert [stored_weight(codes, bits)[0].nbytes for bits in (2, 3, 4, 5, 8)] == [36, 72, 72, 144, 144]


def test_a_type_that_nobody_knows_has_8_bits() -> None:
    assert stored_bits(None) == 8
