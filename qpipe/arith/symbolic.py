"""The ONNX interpreter of the integer arithmetic: values whose Python operators emit nodes.

`qpipe.arith.quantize` runs unchanged on them, with `SYMBOLIC` as its array namespace. The operators have their meaning
for int32; a shifted value and a comparison are uint8, because what is shifted is a code about to be stored: it is exact
modulo 256. onnxruntime's quirks stay in here: BitShift takes unsigned types only (and a Cast keeps the bits),
BitwiseAnd is four times as slow as an addition, a division truncates, which is flooring for what is not negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DType = np.dtype[Any]
INT32, UINT32, UINT8, BOOL = (np.dtype(t) for t in (np.int32, np.uint32, np.uint8, np.bool_))
_UINT32_BITS = 32


class Emitter(Protocol):
    """Writes nodes: a handle is whatever it returns."""

    def node(self, op_type: str, inputs: Sequence[Any], dtype: np.dtype[Any], **attributes: Any) -> Any:
        """Emit a node of the standard domain; its one output has this type."""

    def cast(self, value: Any, dtype: np.dtype[Any]) -> Any:
        """Emit a Cast, once for a value and a type."""

    def operand(self, array: Array, sizes: Sequence[int | None]) -> Any:
        """A constant that broadcasts against a value whose last dimensions are `sizes` (None: unknown)."""


class Symbol:
    """An integer tensor of a graph that is being written. `sizes`: what is known of its last dimensions."""

    # numpy must leave `array + symbol` to this class.
    __array_ufunc__ = None

    def __init__(self, emitter: Emitter, handle: Any, dtype: Any = INT32, sizes: Sequence[int | None] = ()) -> None:
        self._emitter = emitter
        self._handle = handle
        self.dtype = np.dtype(dtype)
        self.sizes = tuple(sizes)

    @property
    def handle(self) -> Any:
        """What the emitter returned for it."""
        return self._handle

    def astype(self, dtype: Any) -> Symbol:
        """The same integers, or their low bits, in another type."""
        if self.dtype == np.dtype(dtype):
            return self
        return self._like(self._emitter.cast(self.handle, np.dtype(dtype)), dtype)

    def __add__(self, other: Any) -> Symbol:
        return self if _is_all(other, 0) else self._binary("Add", other)

    def __sub__(self, other: Any) -> Symbol:
        return self if _is_all(other, 0) else self._binary("Sub", other)

    def __mul__(self, other: Any) -> Symbol:
        return self if _is_all(other, 1) else self._binary("Mul", other)

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Any) -> Symbol:
        return self._binary("Div", other)

    def __rshift__(self, bits: int) -> Symbol:
        shifted = self.astype(UINT32)._binary("BitShift", bits, direction="RIGHT")
        return shifted.astype(UINT8)

    def __and__(self, mask: Any) -> Symbol:
        return _Masked(self, int(mask))

    def minimum(self, other: Any) -> Symbol:
        """The smaller, element by element."""
        return self._binary("Min", other)

    def maximum(self, other: Any) -> Symbol:
        """The larger, element by element."""
        return self._binary("Max", other)

    def clip(self, low: Any, high: Any) -> Symbol:
        """Between two scalars, which is one pass; otherwise two."""
        if not (_is_scalar(low) and _is_scalar(high)):
            return self.maximum(low).minimum(high)
        bounds = [self._emitter.operand(self._constant(bound), ()) for bound in (low, high)]
        return self._like(self._emitter.node("Clip", [self.handle, *bounds], self.dtype))

    def sum(self, axes: Sequence[int]) -> Symbol:
        """Over these axes, which stay with one element."""
        operand = self._emitter.operand(np.array(axes, np.int64), ())
        return self._like(self._emitter.node("ReduceSum", [self.handle, operand], self.dtype, keepdims=1))

    def _binary(self, op_type: str, other: Any, **attributes: Any) -> Symbol:
        if isinstance(other, Symbol):
            if other.dtype != self.dtype:
                raise TypeError(f"{op_type} of {self.dtype} and {other.dtype}")
            operand = other.handle
        else:
            operand = self._emitter.operand(self._constant(other), self.sizes)
        return self._like(self._emitter.node(op_type, [self.handle, operand], self.dtype, **attributes))

    def _constant(self, value: Any) -> Array:
        array = np.asarray(value)
        limits = np.iinfo(self.dtype)
        if array.dtype.kind not in "iu" or array.min() < limits.min or array.max() > limits.max:
            raise OverflowError(f"constant {value} does not fit {self.dtype}")
        if array.size and np.all(array == array.flat[0]):
            array = array.flat[0]
        return np.asarray(array, self.dtype)

    def _like(self, handle: Any, dtype: Any = None) -> Symbol:
        return Symbol(self._emitter, handle, self.dtype if dtype is None else dtype, self.sizes)


class _Masked(Symbol):
    """`value & mask`. Compared with 0 under a mask of low bits, it becomes a product that pushes the others out."""

    def __init__(self, value: Symbol, mask: int) -> None:
        super().__init__(value._emitter, None, value.dtype, value.sizes)
        self._value, self._mask = value, mask

    @property
    def handle(self) -> Any:
        """The masked value as a node."""
        if self._handle is None:
            self._handle = self._value._binary("BitwiseAnd", self._mask).handle
        return self._handle

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        if other != 0:
            raise NotImplementedError("a masked value compares with 0 only")
        bits = self._mask.bit_length()
        if self._mask != 2**bits - 1:
            raise NotImplementedError(f"mask {self._mask} is not one of low bits")
        return (self._value.astype(UINT32) * (1 << (_UINT32_BITS - bits))).astype(BOOL).astype(UINT8)

    __hash__ = None  # type: ignore[assignment]


class _Namespace:
    """The functions of an array namespace that the definitions use."""

    @staticmethod
    def minimum(a: Symbol, b: Any) -> Symbol:
        """Element by element."""
        return a.minimum(b)

    @staticmethod
    def maximum(a: Symbol, b: Any) -> Symbol:
        """Element by element."""
        return a.maximum(b)

    @staticmethod
    def clip(a: Symbol, low: Any, high: Any) -> Symbol:
        """Between low and high."""
        return a.clip(low, high)


SYMBOLIC = _Namespace()


def _is_scalar(value: Any) -> bool:
    return np.ndim(value) == 0


def _is_all(other: Any, value: int) -> bool:
    return not isinstance(other, Symbol) and bool(np.all(np.asarray(other) == value))
