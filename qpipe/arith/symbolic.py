"""The ONNX interpreter of the integer arithmetic: values whose Python operators emit nodes.

`qpipe.arith.quantize` runs unchanged on them, with `SYMBOLIC` as their library. The operators have their meaning for
int32; a shifted value and a comparison are uint8, because what is shifted is a code about to be stored: it is exact
modulo 256. onnxruntime's quirks stay in here: BitShift takes unsigned types only (and a Cast keeps the bits),
BitwiseAnd is four times as slow as an addition, a division truncates, which is flooring for what is not negative, and
Gather calls a copy for each number where GatherElements has one loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from qpipe.arith.namespace import AnyArray, IntegerNamespace

if TYPE_CHECKING:
    import onnx_ir as ir

DType = np.dtype[Any]
INT32, UINT32, UINT8, BOOL = (np.dtype(t) for t in (np.int32, np.uint32, np.uint8, np.bool_))
_INT64 = np.dtype(np.int64)
_UINT32_BITS = 32
_ONE_ROW = np.array([-1], np.int64)

Operand: TypeAlias = "Symbol | AnyArray | int"


class Emitter(Protocol):
    """Writes nodes: a handle is the value that it returns."""

    def node(self, op_type: str, inputs: Sequence[ir.Value], dtype: DType, **attributes: str | int) -> ir.Value:
        """Emit a node of the standard domain; its one output has this type."""

    def cast(self, value: ir.Value, dtype: DType) -> ir.Value:
        """Emit a Cast, once for a value and a type."""

    def operand(self, array: AnyArray, sizes: Sequence[int | None]) -> ir.Value:
        """A constant that broadcasts against a value whose last dimensions are `sizes` (None: unknown)."""


class Symbol:
    """An integer tensor of a graph that is being written. `sizes`: what is known of its last dimensions."""

    # numpy must leave `array + symbol` to this class.
    __array_ufunc__ = None

    def __init__(
        self, emitter: Emitter, handle: ir.Value, dtype: npt.DTypeLike = INT32, sizes: Sequence[int | None] = ()
    ) -> None:
        self._emitter = emitter
        self._handle = handle
        self.dtype = np.dtype(dtype)
        self.sizes = tuple(sizes)

    def __array_namespace__(self) -> IntegerNamespace[Symbol]:
        return SYMBOLIC

    @property
    def handle(self) -> ir.Value:
        """What the emitter returned for it."""
        return self._handle

    def astype(self, dtype: npt.DTypeLike) -> Symbol:
        """The same integers, or their low bits, in another type."""
        if self.dtype == np.dtype(dtype):
            return self
        return self._like(self._emitter.cast(self.handle, np.dtype(dtype)), dtype)

    def __add__(self, other: Operand) -> Symbol:
        return self if self._stays(other, 0) else self._binary("Add", other)

    def __sub__(self, other: Operand) -> Symbol:
        return self if self._stays(other, 0) else self._binary("Sub", other)

    def __mul__(self, other: Operand) -> Symbol:
        return self if self._stays(other, 1) else self._binary("Mul", other)

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Operand) -> Symbol:
        return self if self._stays(other, 1) else self._binary("Div", other)

    def __rfloordiv__(self, other: AnyArray | int) -> Symbol:
        numerator = self._emitter.operand(self._constant(other), ())
        return self._like(self._emitter.node("Div", [numerator, self.handle], self.dtype))

    def __rshift__(self, bits: int) -> Symbol:
        shifted = self.astype(UINT32)._binary("BitShift", bits, direction="RIGHT")
        return shifted.astype(UINT8)

    def __and__(self, mask: int) -> Symbol:
        return _Masked(self, int(mask))

    def minimum(self, other: Operand) -> Symbol:
        """The smaller, element by element."""
        return self._binary("Min", other)

    def maximum(self, other: Operand) -> Symbol:
        """The larger, element by element."""
        return self._binary("Max", other)

    def clip(self, low: Operand, high: Operand) -> Symbol:
        """Between two scalars, which is one pass; otherwise two."""
        if isinstance(low, Symbol) or isinstance(high, Symbol) or np.ndim(low) or np.ndim(high):
            return self.maximum(low).minimum(high)
        bounds = [self._emitter.operand(self._constant(bound), ()) for bound in (low, high)]
        return self._like(self._emitter.node("Clip", [self.handle, *bounds], self.dtype))

    def not_equal(self, other: int) -> Symbol:
        """Of a masked value alone."""
        raise NotImplementedError("only a masked value compares")

    def sum(self, axes: Sequence[int], *, keepdims: bool = True) -> Symbol:
        """Over these axes, which stay with one element, or go."""
        operand = self._emitter.operand(np.array(axes, np.int64), ())
        reduced = self._emitter.node("ReduceSum", [self.handle, operand], self.dtype, keepdims=int(keepdims))
        return self._like(reduced)

    def max(self, axes: Sequence[int]) -> Symbol:
        """Over these axes, which stay with one element."""
        operand = self._emitter.operand(np.array(axes, np.int64), ())
        return self._like(self._emitter.node("ReduceMax", [self.handle, operand], self.dtype, keepdims=1))

    def min(self, axes: Sequence[int]) -> Symbol:
        """Over these axes, which stay with one element."""
        operand = self._emitter.operand(np.array(axes, np.int64), ())
        return self._like(self._emitter.node("ReduceMin", [self.handle, operand], self.dtype, keepdims=1))

    def at_least(self, bounds: AnyArray) -> Symbol:
        """1 where it is as large as a bound, or larger, else 0; the bounds broadcast."""
        operand = self._emitter.operand(bounds.astype(self.dtype), ())
        reached = self._emitter.node("GreaterOrEqual", [self.handle, operand], BOOL)
        return self._like(self._emitter.cast(reached, self.dtype))

    def found_in(self, table: Symbol | AnyArray) -> Symbol:
        """The numbers of a table `[S]` at these places, along one row."""
        entries = table.handle if isinstance(table, Symbol) else self._emitter.operand(table.astype(self.dtype), ())
        row = self._emitter.node("Reshape", [self.handle, self._emitter.operand(_ONE_ROW, ())], self.dtype)
        found = self._emitter.node("GatherElements", [entries, row], self.dtype)
        sizes = self._emitter.node("Shape", [self.handle], _INT64)
        return self._like(self._emitter.node("Reshape", [found, sizes], self.dtype))

    def _binary(self, op_type: str, other: Operand, **attributes: str) -> Symbol:
        if isinstance(other, Symbol):
            if other.dtype != self.dtype:
                raise TypeError(f"{op_type} of {self.dtype} and {other.dtype}")
            operand = other.handle
        else:
            operand = self._emitter.operand(self._constant(other), self.sizes)
        return self._like(self._emitter.node(op_type, [self.handle, operand], self.dtype, **attributes))

    def _constant(self, value: AnyArray | int) -> AnyArray:
        array = np.asarray(value)
        limits = np.iinfo(self.dtype)
        if array.dtype.kind not in "iu" or array.min() < limits.min or array.max() > limits.max:
            raise OverflowError(f"constant {value} does not fit {self.dtype}")
        if array.size and np.all(array == array.flat[0]):
            array = np.broadcast_to(array.flat[0], self._repeats(array))
        return np.asarray(array, self.dtype)

    def _stays(self, other: Operand, neutral: int) -> bool:
        """Whether it is what comes of such a number, which changes nothing."""
        if isinstance(other, Symbol) or np.any(np.asarray(other) != neutral):
            return False
        return not self._repeats(np.asarray(other))

    def _repeats(self, array: AnyArray) -> tuple[int, ...]:
        """The least shape that repeats this value as the array does; () where that only broadcasts to it.

        A dimension whose size is not known is as long as the array's.
        """
        known = (None,) * array.ndim + self.sizes
        counts = [n if size == 1 else 1 for n, size in zip(array.shape, known[len(known) - array.ndim :], strict=True)]
        return tuple(counts) if max(counts, default=1) > 1 else ()

    def _like(self, handle: ir.Value, dtype: npt.DTypeLike | None = None) -> Symbol:
        return Symbol(self._emitter, handle, self.dtype if dtype is None else dtype, self.sizes)


class _Masked(Symbol):
    """`value & mask`. Compared with 0 under a mask of low bits, it becomes a product that pushes the others out."""

    def __init__(self, value: Symbol, mask: int) -> None:
        super().__init__(value._emitter, value.handle, value.dtype, value.sizes)
        self._value, self._mask = value, mask
        self._masked: ir.Value | None = None

    @property
    def handle(self) -> ir.Value:
        """The masked value as a node."""
        if self._masked is None:
            self._masked = self._value._binary("BitwiseAnd", self._mask).handle
        return self._masked

    def not_equal(self, other: int) -> Symbol:
        """1 where it is not 0, else 0, uint8."""
        if other != 0:
            raise NotImplementedError("a masked value compares with 0 only")
        bits = self._mask.bit_length()
        if self._mask != 2**bits - 1:
            raise NotImplementedError(f"mask {self._mask} is not one of low bits")
        return (self._value.astype(UINT32) * (1 << (_UINT32_BITS - bits))).astype(BOOL).astype(UINT8)


class _Namespace(IntegerNamespace[Symbol]):
    def minimum(self, a: Symbol, b: Operand, /) -> Symbol:
        return a.minimum(b)

    def maximum(self, a: Symbol, b: Operand, /) -> Symbol:
        return a.maximum(b)

    def clip(self, x: Symbol, low: int, high: int, /) -> Symbol:
        return x.clip(low, high)

    def not_equal(self, a: Symbol, b: int, /) -> Symbol:
        return a.not_equal(b)


SYMBOLIC = _Namespace()
