"""Compare the tensors of two ways to compute one quantized network: the first that differs is named by its layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.errors import ParityError
from qpipe.ir.quantized.oracle import result_name
from qpipe.ir.quantized.view import View
from qpipe.lowering.ends import spread_scales
from qpipe.runtime.cut import Tensor

Array = npt.NDArray[Any]

LOWERED = "differ from the QDQ file's"
OPTIMIZED = "that the QDQ file says are others once onnxruntime optimizes it"
UNFUSED = "that the QDQ file says are others as onnxruntime runs it, without optimizing it"
SPECIFIED = "differ from those that the QDQ file says"


class Differences:
    """How a network's tensors are called in messages, and compared; `integers` counts what was."""

    def __init__(self, view: View) -> None:
        self.integers = 0
        self._scales = {
            str(layer.result.name): spread_scales(layer) for layer in view.layers if layer.quantizer is None
        }
        self._owner = {str(q.codes.name): f"input '{q.source.name}'" for q in view.inputs}
        self._owner |= {result_name(layer): f"{layer.op_type} '{layer.name}'" for layer in view.layers}

    def check(
        self, expected: dict[str, Array], found: dict[str, Array], what: str, kind: str, tensors: dict[str, Tensor]
    ) -> None:
        """ParityError that names the first of the `expected` tensors, in their order, with another integer in `found`.

        A last layer's are real numbers or, in `found`, int32. what: of a differing integer, in words. kind: of inputs.
        tensors: how `found` has its own.
        """
        for name, known in expected.items():
            array = self._common(name, tensors[name].to_common(found[name]))[: len(known)]
            known = known.astype(array.dtype)
            self.integers += known.size
            if known.shape != array.shape:
                raise ParityError(f"{self._owner[name]}: shape {list(array.shape)}, expected {list(known.shape)}")
            wrong = int(np.count_nonzero(known != array))
            if wrong:
                largest = np.abs(known.astype(np.float64) - array).max()
                raise ParityError(
                    f"{self._owner[name]}: {wrong} of {known.size} integers {what}, on {kind} inputs, "
                    f"by up to {largest:g}"
                )

    def _common(self, name: str, array: Array) -> Array:
        """A last layer's int32 in real units, as floats of the QDQ graph have them."""
        if name not in self._scales or array.dtype != np.int32:
            return array
        return array.astype(np.float32) * self._scales[name]
