"""The numbers of short lists that a graph computes from shapes, where some sizes, such as the batch, are open.

An open size has a name and is followed through sums and products: `2 * N + 1`. onnx's own inference follows fewer ops,
and forgets an open size on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.ir.files.open_size import ARITHMETIC, COMPARISONS, Open, Size, Sizes, UnknownError, known, product
from qpipe.nodes import AnyArray, constant_array, input_value, int_attribute, ints_attribute

MOST_NUMBERS: Final = 256
"""Numbers of the longest list that is followed."""
_FAR: Final = 2**31 - 2
"""Before the first number by more than any list has: a Slice that goes backwards ends with the first."""
Numbers = npt.NDArray[np.object_]
"""Of `Size`."""


def sizes_of(value: ir.Value | None) -> Sizes | None:
    """A value's sizes; None where not even the rank is known."""
    if value is None or value.shape is None:
        return None
    return [
        size if isinstance(size, int) else Open.read(size.value) if size.value else Open(f"{value.name}[{axis}]")
        for axis, size in enumerate(value.shape)
    ]


def is_known(numbers: Numbers) -> bool:
    """Whether no number is open."""
    return not any(isinstance(number, Open) for number in numbers.flat)


class Lists:
    """What is known of the lists of a graph; its nodes are to be followed in their order.

    at: a number that is taken for every open size. longest: numbers of the longest list that is followed.
    """

    def __init__(self, *, at: int | None = None, longest: int = MOST_NUMBERS) -> None:
        self._at, self.longest = at, longest
        self._found: dict[ir.Value, tuple[Numbers, np.dtype[Any]]] = {}

    def computed(self, value: ir.Value | None) -> Numbers | None:
        """The numbers of a list that the graph computes."""
        return self._found[value][0] if value in self._found else None

    def array(self, value: ir.Value | None) -> AnyArray | None:
        """The numbers of a list that is constant, or computed and known."""
        found = self._numbers(value)
        return found[0].astype(found[1]) if found is not None and is_known(found[0]) else None

    def follow(self, node: ir.Node) -> bool:
        """Whether the node's result is a list now, some of whose numbers may be open."""
        rule = _RULES.get(node.op_type)
        if node.domain != "" or rule is None or len(node.outputs) != 1:
            return False
        try:
            numbers, dtype = rule(node, self)
        except (UnknownError, ZeroDivisionError):
            return False
        if numbers.size > self.longest:
            return False
        self._found[node.outputs[0]] = numbers, dtype
        return True

    def sizes(self, value: ir.Value | None) -> Sizes:
        """A value's sizes; UnknownError where not even the rank is known."""
        sizes = sizes_of(value)
        if sizes is None:
            raise UnknownError
        return sizes if self._at is None else [self._at if isinstance(size, Open) else size for size in sizes]

    def read(self, node: ir.Node, index: int) -> tuple[Numbers, np.dtype[Any]]:
        """An operand's numbers and type; UnknownError where it is no list."""
        found = self._numbers(input_value(node, index))
        if found is None:
            raise UnknownError
        return found

    def ints(self, node: ir.Node, index: int) -> list[int] | None:
        """An operand's integers; None where it is left out, UnknownError where they are not known."""
        value = input_value(node, index)
        if value is None:
            return None
        array = self.array(value)
        if array is None:
            raise UnknownError
        return [int(number) for number in array.flat]

    def _numbers(self, value: ir.Value | None) -> tuple[Numbers, np.dtype[Any]] | None:
        if value is None or value in self._found:
            return None if value is None else self._found[value]
        array = constant_array(value) if value.const_value is None or value.const_value.size <= self.longest else None
        if array is None or array.size > self.longest or array.dtype.kind not in "iufb":
            return None
        numbers = np.empty(array.shape, object)
        numbers[...] = array.tolist()
        return numbers, array.dtype


Rule = Callable[[ir.Node, Lists], tuple[Numbers, np.dtype[Any]]]


def _shape(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    sizes = lists.sizes(input_value(node, 0))
    end = int_attribute(node, "end", len(sizes))
    return _list(sizes[int_attribute(node, "start", 0) : end]), np.dtype(np.int64)


def _gather(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    numbers, dtype = lists.read(node, 0)
    index = lists.array(input_value(node, 1))
    if index is None or int_attribute(node, "axis", 0) or numbers.ndim != 1:
        raise UnknownError
    if index.size and not -len(numbers) <= index.min() <= index.max() < len(numbers):
        raise UnknownError
    return np.array(numbers[index.astype(np.int64)], object), dtype


def _slice(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    numbers, dtype = lists.read(node, 0)
    starts, ends, axes, steps = (lists.ints(node, index) for index in (1, 2, 3, 4))
    if not starts or not ends or 0 in (steps or ()):
        raise UnknownError
    parts = {
        axis % max(numbers.ndim, 1): slice(start, None if end < -_FAR and step < 0 else end, step)
        for start, end, axis, step in zip(
            starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True
        )
    }
    return _fitting(lambda: numbers[tuple(parts.get(axis, slice(None)) for axis in range(numbers.ndim))]), dtype


def _transpose(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    numbers, dtype = lists.read(node, 0)
    order = ints_attribute(node, "perm", range(numbers.ndim)[::-1])
    return _fitting(lambda: numbers.transpose(order)), dtype


def _concat(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    parts = [lists.read(node, index) for index in range(len(node.inputs))]
    axis = int_attribute(node, "axis", 0)
    return _fitting(lambda: np.concatenate([numbers for numbers, _ in parts], axis)), parts[0][1]


def _expand(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    numbers, dtype = lists.read(node, 0)
    target = tuple(lists.ints(node, 1) or ())
    if any(size < 1 for size in target):
        raise UnknownError
    # A view, however large it says that it is.
    found = _fitting(lambda: np.broadcast_to(numbers, np.broadcast_shapes(numbers.shape, target)))
    if found.size > lists.longest:
        raise UnknownError
    return found, dtype


def _reshape(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    numbers, dtype = lists.read(node, 0)
    target = lists.ints(node, 1)
    if target is None or 0 in target:
        raise UnknownError
    return _fitting(lambda: numbers.reshape(target)), dtype


def _unsqueeze(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    numbers, dtype = lists.read(node, 0)
    axes = lists.ints(node, 1) or list(ints_attribute(node, "axes", ()))
    return _fitting(lambda: np.expand_dims(numbers, tuple(axes))), dtype


def _squeeze(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    numbers, dtype = lists.read(node, 0)
    axes = lists.ints(node, 1) or ints_attribute(node, "axes", ()) or None
    return _fitting(lambda: np.squeeze(numbers, None if axes is None else tuple(axes))), dtype


def _fitting(change: Callable[[], Any]) -> Any:
    """What is made of it; UnknownError where that does not fit, which onnxruntime will say."""
    try:
        return change()
    except (ValueError, OverflowError) as error:
        raise UnknownError from error


def _identity(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    return lists.read(node, 0)


def _cast(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    numbers, _ = lists.read(node, 0)
    target = ir.DataType(int_attribute(node, "to", 0)).numpy()
    if target.kind not in "iufb":
        raise UnknownError
    return _each(_rounded_to(target), numbers), target


def _filled(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    sizes = lists.ints(node, 0) or []
    attribute = node.attributes.get("value")
    value = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    if np.prod(sizes) > lists.longest or value.dtype.kind not in "iufb":
        raise UnknownError
    return np.full(sizes, value.flat[0].item(), object), value.dtype


def _range(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    (start,), (end,), (step,) = (lists.ints(node, index) or [0] for index in range(3))
    if step == 0 or lists.read(node, 0)[1].kind != "i" or len(range(start, end, step)) > lists.longest:
        raise UnknownError
    return _list(list(range(start, end, step))), lists.read(node, 0)[1]


def _where(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    condition, (yes, dtype), (no, _) = lists.read(node, 0)[0], lists.read(node, 1), lists.read(node, 2)
    return _each(lambda c, a, b: a if c else b, condition, yes, no), dtype


def _product(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
    """Of all numbers of a list."""
    numbers, dtype = lists.read(node, 0)
    axes = lists.ints(node, 1) or ints_attribute(node, "axes", ())
    if numbers.ndim != 1 or set(axes) - {0, -1} or (not axes and int_attribute(node, "noop_with_empty_axes", 0)):
        raise UnknownError
    return _list([product(numbers)]).reshape([1] if int_attribute(node, "keepdims", 1) else []), dtype


def _elementwise(compute: Callable[..., Size], *, gives: type[np.generic] | None = None) -> Rule:
    """gives: the result's type, where it is not the operands'."""

    def rule(node: ir.Node, lists: Lists) -> tuple[Numbers, np.dtype[Any]]:
        operands = [lists.read(node, index) for index in range(len(node.inputs))]
        dtype = operands[0][1] if gives is None else np.dtype(gives)
        numbers = _each(compute, *(numbers for numbers, _ in operands))
        # As the graph rounds them.
        return _each(_rounded_to(dtype), numbers), dtype

    return rule


def _each(compute: Callable[..., Size], *operands: Numbers) -> Numbers:
    try:
        broadcast = np.broadcast_arrays(*operands)
    except ValueError as error:
        raise UnknownError from error
    results = [compute(*numbers) for numbers in zip(*(numbers.flat for numbers in broadcast), strict=True)]
    return _list(results).reshape(broadcast[0].shape)


def _rounded_to(dtype: np.dtype[Any]) -> Callable[[Size], Size]:
    def rounded(number: Size) -> Size:
        if isinstance(number, Open):
            if dtype.kind == "b":
                raise UnknownError
            return number
        plain: Size = dtype.type(number).item()
        return plain

    return rounded


def _list(numbers: Sizes) -> Numbers:
    result = np.empty(len(numbers), object)
    result[:] = numbers
    return result


_RULES: Final[Mapping[str, Rule]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Expand": _expand,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Identity": _identity,
    "Cast": _cast,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Where": _where,
    "Pow": _elementwise(known(lambda x, y: _fitting(lambda: math.pow(x, y)))),
    "Sqrt": _elementwise(known(lambda x: _fitting(lambda: math.sqrt(x)))),
    **{op_type: _elementwise(compute) for op_type, compute in ARITHMETIC.items()},
    **{op_type: _elementwise(compute, gives=np.bool_) for op_type, compute in COMPARISONS.items()},
    "ReduceProd": _product,
}
