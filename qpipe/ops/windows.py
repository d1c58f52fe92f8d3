"""What Conv and the poolings have in common: a window that slides over one to three spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from qpipe.arith.namespace import AnyArray
from qpipe.errors import LoweringError, ModelError
from qpipe.nodes import Window, describe, static_shape, window
from qpipe.ops.base import Refusal

MOST_DIMS = 3
_NO_ADVICE = "reshape before and behind it where it works on one to three dimensions, or keep it behind the last layer"


def window_refusal(node: ir.Node) -> Refusal | None:
    """Why the window has no integer form: its pads are not explicit, it is of four dimensions, or over its image."""
    try:
        found = window(node)
    except ModelError as error:
        return Refusal(str(error).removeprefix(f"{describe(node)}: "))
    return dims_refusal(len(found.kernel)) or _fit_refusal(found, image_sizes(node))


def _fit_refusal(found: Window, sizes: list[int] | None) -> Refusal | None:
    """Why it lies nowhere on the padded image; onnxruntime gives something all the same."""
    if sizes is None or len(sizes) != len(found.kernel):
        return None
    if all(positions(found, found.pads, i, size) > 0 for i, size in enumerate(sizes)):
        return None
    return Refusal(
        f"its window of {list(found.extent)} pixels is larger than the image of {sizes} with its pads: use a smaller "
        "kernel"
    )


def dims_refusal(dims: int) -> Refusal | None:
    """Why as many spatial dimensions have no integer form."""
    if dims in range(1, MOST_DIMS + 1):
        return None
    return Refusal(f"it has {dims} spatial dimensions, expected 1 to 3: {_NO_ADVICE}")


def image_sizes(node: ir.Node) -> list[int] | None:
    """The sizes of what the window slides over; None where one is unknown."""
    shape = None if node.inputs[0] is None else static_shape(node.inputs[0])
    sizes = [size for size in (shape or ())[2:] if size is not None]
    return sizes if shape is not None and sizes and len(sizes) == len(shape) - 2 else None


def positions(shape: Window, pads: tuple[int, ...], i: int, size: int) -> int:
    """How many places the window has along a dimension of this size, with these pads."""
    return (size + pads[i] + pads[len(shape.kernel) + i] - shape.extent[i]) // shape.strides[i] + 1


def as_image(shape: Window) -> Window:
    """The window over `[L]` as one over `[1, L]`; another as it is."""
    if len(shape.kernel) > 1:
        return shape
    begin, end = shape.pads
    return Window(
        kernel=(1, *shape.kernel), strides=(1, *shape.strides), dilations=(1, *shape.dilations), pads=(0, begin, 0, end)
    )


def require_dims(node: ir.Node) -> Window:
    """The window; LoweringError where it is over more dimensions than there are semantics for."""
    found = window(node)
    if dims_refusal(len(found.kernel)) is not None:
        raise LoweringError(f"{describe(node)}: {len(found.kernel)} spatial dimensions, expected 1 to 3")
    return found


def symmetric_pads(pads: tuple[int, ...]) -> tuple[int, ...] | None:
    """The pads of each dimension where begin and end are equal, else None."""
    half = len(pads) // 2
    return pads[:half] if pads[:half] == pads[half:] else None


def padded(x: AnyArray, pads: Sequence[int], fill: int = 0) -> AnyArray:
    """x with a border, of ONNX's pads for every axis; negative ones crop."""
    half = len(pads) // 2
    for axis, (begin, end) in enumerate(zip(pads[:half], pads[half:], strict=True)):
        size = x.shape[axis]
        x = np.take(x, range(max(-begin, 0), size - max(-end, 0)), axis) if min(begin, end) < 0 else x
    around = [(max(begin, 0), max(end, 0)) for begin, end in zip(pads[:half], pads[half:], strict=True)]
    return np.pad(x, around, constant_values=fill)


def patches(x: AnyArray, shape: Window, pads: Sequence[int], fill: int = 0) -> AnyArray:
    """`[N, C, *S', *kernel]`, a view: what each tap of the window sees at each position, of x `[N, C, *S]` padded."""
    dims = len(shape.kernel)
    x = padded(x, (0, 0, *pads[:dims], 0, 0, *pads[dims:]), fill)
    found = sliding_window_view(x, shape.extent, tuple(range(2, 2 + dims)))
    steps = (slice(None, None, step) for step in (*shape.strides, *shape.dilations))
    return found[:, :, *steps]


def torch_pads(pads: tuple[int, ...]) -> list[int]:
    """ONNX's pads (all begins, all ends) in torch's order (last dimension first, begin and end together)."""
    half = len(pads) // 2
    return [pad for i in reversed(range(half)) for pad in (pads[i], pads[half + i])]
