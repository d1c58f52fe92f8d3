"""Bound the numbers by which attention masks say "never": what a Softmax reads of them is 0 either way.

    Softmax(x + m), m of 0 and -3.4e38 (or -inf)  =  Softmax(x + m'), m' of 0 and -2^15        to the last bit

as long as what they are added to is less than 2^14 in magnitude; float32 has no exponential of less than -104. (A row
of which all is masked has no such maximum; what it gives means nothing.) The largest finite number, or infinity, would
be the range of every tensor on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.nodes import AnyArray, constant_array, initializer
from qpipe.ops.masks import leads_to_softmax

LOWEST: Final = 2.0**15
"""What larger magnitudes become: beyond all that scores are, and not far from them."""


@dataclass(frozen=True, kw_only=True)
class FiniteMasks(ir.passes.InPlacePass):
    """Every float constant with larger magnitudes of which nothing but a Softmax is a function."""

    name: ClassVar[str] = "finite-masks"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, for all of its readers."""
        graph, modified = model.graph, False
        values = [*graph.initializers.values(), *(v for n in graph if n.op_type == "Constant" for v in n.outputs)]
        for value in values:
            array = constant_array(value)
            if array is None or array.dtype != np.float32 or not _is_mask(array) or not leads_to_softmax(value):
                continue
            bounded = initializer(graph, f"{value.name}_bounded", np.clip(array, -LOWEST, LOWEST))
            for node, index in list(value.uses()):
                node.replace_input_with(index, bounded)
            modified = True
        return ir.passes.PassResult(model, modified)


def _is_mask(array: AnyArray) -> bool:
    return bool(array.size and np.abs(array).max() > LOWEST and not np.isnan(array).any())
