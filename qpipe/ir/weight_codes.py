"""How a final weight's codes are stored: int8, INT4 where they have 4 bits, or uint8 with zero point 128."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

WEIGHT_ZERO_POINT = 128


def stored_weight(
    codes: npt.NDArray[np.int8], bits: int, weights: str = "int8"
) -> tuple[ir.TensorProtocol, np.generic]:
    """The tensor and its zero point; `weights` is "int8" or "uint8".

    4-bit codes stay INT4 in both: their pairs of products fit int16, which is what uint8 is for.
    """
    codes = np.ascontiguousarray(codes)
    if bits <= 4:
        return ir.tensor(codes, dtype=ir.DataType.INT4), np.int8(0)
    if weights == "uint8":
        return ir.tensor((codes.astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8)), np.uint8(WEIGHT_ZERO_POINT)
    return ir.tensor(codes), np.int8(0)


def signed_codes(stored: npt.NDArray[Any], zero_point: npt.NDArray[Any] | None) -> npt.NDArray[np.int8]:
    """Codes without their zero point."""
    zero = 0 if zero_point is None else zero_point.astype(np.int16).reshape(-1)[0]
    return (stored.astype(np.int16) - zero).astype(np.int8)
