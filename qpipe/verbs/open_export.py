"""An export of any size, of a network whose file leaves sizes open: lowered again without them, and compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnx_ir as ir

from qpipe.errors import LoweringError, ModelError, ParityError
from qpipe.ir.files.sizes import InputSizes, dims_of, fix_sizes, forget_sizes, open_sizes, read_sizes, store_sizes
from qpipe.runtime.gate import compare_extremes

_HALVED: Final = 64
"""A multiple of it stays one of 32 when it is halved, as networks want that halve their images five times."""


def lowered_at_any_size(
    spec: ir.Model, fixed: ir.Model, lower: Callable[[ir.Model], ir.Model], *, seed: int, pairs: str
) -> ir.Model:
    """What `lower` makes of the network at open sizes, where it gives its integers at other sizes too; else `fixed`.

    spec: a finalized QDQ model, at the sizes that it is computed at. fixed: what was made from it. pairs: as the
    certificate says.
    """
    opened = spec.clone()
    open_sizes(opened)
    try:
        lowered = lower(opened)
        compare_extremes(_at_other_sizes(spec), lowered, seed=seed, pairs=pairs)
    except (LoweringError, ModelError, ParityError):
        forget_sizes(fixed)
        return fixed
    at = {str(value.name): dims_of(value) or () for value in fixed.graph.inputs}
    known = {}
    for value in lowered.graph.inputs:
        name, declared = str(value.name), dims_of(value) or ()
        if not all(isinstance(dim, int) for dim in declared):
            sizes = tuple(dim if isinstance(dim, int) else None for dim in at[name])
            known[name] = InputSizes(at=sizes, declared=declared)
    store_sizes(lowered, known)
    return lowered


def _at_other_sizes(spec: ir.Model) -> ir.Model:
    """The network at twice the size, or half of it, wherever one is open."""
    other = spec.clone()
    for name, sizes in read_sizes(spec).items():
        at = [
            size if size is None or isinstance(declared, int) or not index else _other(size)
            for index, (size, declared) in enumerate(zip(sizes.at, sizes.declared, strict=True))
        ]
        fix_sizes(other, {name: [size for size in at if size is not None]})
    return other


def _other(size: int) -> int:
    return size // 2 if size % _HALVED == 0 else 2 * size
