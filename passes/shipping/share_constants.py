"""Keep equal scalars, and equal vectors of one number, once: a QDQ graph has four with each of its quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.nodes import constant_array, initializer


@dataclass(frozen=True, kw_only=True)
class ShareConstants(ir.passes.InPlacePass):
    """What several nodes have in common is named after its type and number; what is used once keeps its name."""

    name: ClassVar[str] = "share-constants"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge every group of equal constants; graph inputs and outputs stay."""
        graph = model.graph
        groups: dict[str, tuple[npt.NDArray[Any], list[ir.Value]]] = {}
        for value, array in _uniform(graph):
            size = f"x{array.size}" if array.ndim else ""
            groups.setdefault(f"{array.dtype}_{array.flat[0]}{size}", (array, []))[1].append(value)
        several = {name: group for name, group in groups.items() if len(group[1]) > 1}
        for name, (array, values) in several.items():
            shared = initializer(graph, name, array)
            for value in values:
                value.replace_all_uses_with(shared)
                del graph.initializers[str(value.name)]
        return ir.passes.PassResult(model, bool(several))


def _uniform(graph: ir.Graph) -> Iterator[tuple[ir.Value, npt.NDArray[Any]]]:
    """Scalars and vectors that hold one number throughout."""
    for value in graph.initializers.values():
        array = constant_array(value)
        if array is None or array.ndim > 1 or not array.size or value.is_graph_input() or value.is_graph_output():
            continue
        if np.all(array == array.flat[0]):
            yield value, array
