"""How a final weight's codes are stored: packed as INT2 or INT4, int8, or uint8 with zero point 128.

onnxruntime unpacks a packed weight when a session starts, where nothing but a Cast to int8 reads it: the file is
smaller, and no faster than one of int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

PACKED = {ir.DataType.INT2: 2, ir.DataType.INT4: 4}
"""The types that are read through a Cast to int8, narrowest first, and the bits of each."""

WEIGHT_ZERO_POINT = 128


def stored_weight(
    codes: npt.NDArray[np.int8], bits: int, weights: str = "int8"
) -> tuple[ir.TensorProtocol, np.generic]:
    """The tensor and its zero point, in the narrowest type for codes of this many bits.

    weights: "int8", or "uint8". Codes of 4 bits and fewer are packed and signed in both: their pairs of products fit
    int16, which is what uint8 is for.
    """
    codes = np.ascontiguousarray(codes)
    for dtype, width in PACKED.items():
        if bits <= width:
            return ir.tensor(codes, dtype=dtype), np.int8(0)
    if weights == "uint8":
        return ir.tensor((codes.astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8)), np.uint8(WEIGHT_ZERO_POINT)
    return ir.tensor(codes), np.int8(0)


def stored_bits(dtype: ir.DataType | None) -> int:
    """Of a weight's type: what is left to know of a width once codes are stored (3 bits are stored in 4)."""
    return 8 if dtype is None else PACKED.get(dtype, 8)


def signed_codes(stored: npt.NDArray[Any], zero_point: npt.NDArray[Any] | None) -> npt.NDArray[np.int8]:
    """Codes without their zero point."""
    zero = 0 if zero_point is None else zero_point.astype(np.int16).reshape(-1)[0]
    return (stored.astype(np.int16) - zero).astype(np.int8)
