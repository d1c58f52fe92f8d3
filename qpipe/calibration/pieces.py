"""Run a batch through the float network in pieces, so that the tensors that are looked at stay small in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from qpipe.calibration.percentile import FloatArray
from qpipe.errors import DataError
from qpipe.ir.graph.ending import ending_in
from qpipe.nodes import only_input
from qpipe.runtime.session import open_session, run_batches

_PIECE_VALUES = 2**22  # values of all observed tensors together that one run of the network produces: 16 MiB


class Pieces:
    """Runs a batch in pieces that keep the observed tensors small: as many images as fit `_PIECE_VALUES` values.

    How a batch is cut depends on the network alone, not on the batches before it: the runtime may add up in another
    order for another number of images, and a batch must give the same values in whichever process it runs.
    """

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        """ModelError where the model has other than one input."""
        self._input = str(only_input(model.graph).name)
        self._observes_input = self._input in names
        self._names = [name for name in names if name != self._input]
        # A network of one layer has nothing to observe but its input.
        self._session = open_session(ending_in(model, self._names)) if self._names else None
        self._images: int | None = None

    def run(self, batch: FloatArray) -> Iterator[tuple[dict[str, FloatArray], int]]:
        """Each piece's tensors by name, and its number of images; DataError where a value is not finite."""
        if not np.isfinite(batch).all():
            raise DataError("calibration data: NaN or infinite values, expected finite inputs")
        if self._images is None:
            values = sum(tensor.size for tensor in self._run(batch[:1]).values())
            self._images = max(_PIECE_VALUES // max(values, 1), 1)
        for start in range(0, len(batch), self._images):
            inputs = batch[start : start + self._images]
            yield self._run(inputs), len(inputs)

    def _run(self, inputs: FloatArray) -> dict[str, FloatArray]:
        # It cuts and fills up what a fixed batch size asks for.
        outputs = next(run_batches(self._session, [inputs])) if self._session is not None else []
        tensors: dict[str, FloatArray] = dict(zip(self._names, outputs, strict=True))
        if self._observes_input:
            tensors[self._input] = inputs
        return tensors
