"""An MLS tensor as the bits that hardware would store, and back: how many bytes it has is what it is packed to.

First the tensor's scale, a float32 of 4 bytes. Then the groups' scales in the order of their axes, a code of Eg + Mg
bits each: the exponent `-e`, as equation 2 has it, above the mantissa. Then the elements in the order of the axes, a
code of 1 + E + M bits each: sign, exponent field, mantissa (`qpipe.arith.mls.formats`). Codes follow each other without
gaps, the lowest bit first, and each of the two lists ends with a whole byte. All bytes are little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, MlsFormat
from qpipe.arith.mls.quantize import MlsTensor
from qpipe.arith.namespace import AnyArray, FloatArray, IntArray

_SCALE = np.dtype("<f4")


def element_codes(elements: AnyArray, element: ElementFormat) -> IntArray:
    """The codes of numbers of the format. ValueError: one is none."""
    magnitudes = np.abs(elements.astype(np.float64))
    if not np.all(magnitudes < 1):
        raise ValueError(f"a number is not of the format {element}")
    fraction, exponent = np.frexp(magnitudes)  # magnitude = fraction * 2**exponent, 0.5 <= fraction < 1
    normal = (magnitudes >= 2.0**element.smallest_exponent) & (element.exponent > 0)
    field = np.where(normal, exponent - 1 + 2**element.exponent, 0)
    mantissa = np.where(normal, np.ldexp(2 * fraction - 1, element.mantissa), np.ldexp(magnitudes, -element.unit))
    codes: IntArray = np.signbit(elements) << element.bits - 1 | field << element.mantissa | mantissa.astype(np.int64)
    if not np.array_equal(elements_of(codes, element), elements):
        raise ValueError(f"a number is not of the format {element}")
    return codes


def elements_of(codes: IntArray, element: ElementFormat) -> FloatArray:
    """The numbers of codes."""
    mantissa, field = codes & (1 << element.mantissa) - 1, codes >> element.mantissa & (1 << element.exponent) - 1
    fraction = (field > 0) + np.ldexp(mantissa.astype(np.float64), -element.mantissa)
    magnitudes = np.ldexp(fraction, np.maximum(field, 1) - 2**element.exponent)
    signed: FloatArray = np.copysign(magnitudes, 1 - 2 * (codes >> element.bits - 1 & 1)).astype(np.float32)
    return signed


def group_codes(scales: AnyArray, group: GroupFormat) -> IntArray:
    """The codes of groups' scales. ValueError: one is not of the format."""
    fraction, exponent = np.frexp(scales.astype(np.float64))
    mantissa = np.ldexp(2 * fraction - 1, group.mantissa).astype(np.int64)
    codes: IntArray = (1 - exponent.astype(np.int64)) << group.mantissa | mantissa
    if np.any((codes < 0) | (codes >> group.bits)) or not np.array_equal(group_scales_of(codes, group), scales):
        raise ValueError(f"a group's scale is not of the format {group}")
    return codes


def group_scales_of(codes: IntArray, group: GroupFormat) -> FloatArray:
    """The groups' scales of codes; 0 where float32 has none so small, which `quantize` does not give."""
    mantissa, exponent = codes & (1 << group.mantissa) - 1, -(codes >> group.mantissa)
    fraction = 1 + np.ldexp(mantissa.astype(np.float64), -group.mantissa)
    scales: FloatArray = np.ldexp(fraction, exponent).astype(np.float32)
    return scales


def packed(codes: IntArray, bits: int) -> bytes:
    """Codes of so many bits each, one behind the other."""
    places = codes.reshape(-1, 1) >> np.arange(bits) & 1
    return np.packbits(places.astype(np.uint8), bitorder="little").tobytes()


def unpacked(data: bytes, bits: int, count: int) -> IntArray:
    """The inverse of `packed` for so many codes."""
    places = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little").reshape(count, bits)
    codes: IntArray = (places.astype(np.int64) << np.arange(bits)).sum(1)
    return codes


def pack(tensor: MlsTensor, fmt: MlsFormat, *, groups: int = 1) -> bytes:
    """The bytes of a tensor that `quantize` gave with the same format and groups of the convolution."""
    data = np.asarray(tensor.scale.item(), _SCALE).tobytes()
    if fmt.axes:
        scales = tensor.group_scale.cpu().numpy()
        scales = scales[:: fmt.group_repeats(tensor.values.shape, groups)]
        data += packed(group_codes(scales, fmt.group), fmt.group.bits)
    elements = (tensor.values / tensor.group_scale).cpu().numpy()
    return data + packed(element_codes(elements, fmt.element), fmt.element.bits)


def unpack(data: bytes, shape: Sequence[int], fmt: MlsFormat, *, groups: int = 1) -> MlsTensor:
    """The tensor of these bytes, contiguous. ValueError: one of this shape and format has another number of them."""
    if len(data) != (expected := packed_size(shape, fmt, groups=groups)):
        raise ValueError(f"{len(data)} bytes, expected {expected} of {fmt} and shape {list(shape)}")
    scale, data = np.frombuffer(data, _SCALE, 1)[0], data[_SCALE.itemsize :]
    kept = fmt.group_shape(shape, groups)
    scales = np.ones(kept, np.float32)
    if fmt.axes:
        codes = unpacked(data, fmt.group.bits, scales.size)
        data = data[_bytes(scales.size, fmt.group.bits) :]
        scales = group_scales_of(codes, fmt.group).reshape(kept).repeat(fmt.group_repeats(shape, groups), 0)
    elements = elements_of(unpacked(data, fmt.element.bits, math.prod(shape)), fmt.element).reshape(shape)
    return MlsTensor(torch.from_numpy(elements * scales), torch.tensor(float(scale)), torch.from_numpy(scales))


def packed_size(shape: Sequence[int], fmt: MlsFormat, *, groups: int = 1) -> int:
    """How many bytes a tensor of this shape has."""
    kept = math.prod(fmt.group_shape(shape, groups)) if fmt.axes else 0
    return _SCALE.itemsize + _bytes(kept, fmt.group.bits) + _bytes(math.prod(shape), fmt.element.bits)


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)
