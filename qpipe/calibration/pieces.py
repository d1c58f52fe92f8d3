"""Run a batch through the float network in pieces, so that the tensors that are looked at stay small in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
import onnx_ir as ir

from qpipe.calibration.percentile import FloatArray
from qpipe.data.inputs import Array, Inputs, count_of, fitted, inputs_of, rows_of
from qpipe.errors import DataError
from qpipe.ir.graph.ending import ending_in
from qpipe.nodes import name_in_memory
from qpipe.runtime.session import open_session, run_rows

_PIECE_VALUES = 2**22  # values of all observed tensors together that one run of the network produces: 16 MiB


class Mergeable(Protocol):
    """What is known of some samples, such as moments."""

    def merged(self, other: Self) -> Self:
        """The same of both together."""


T = TypeVar("T", bound=Mergeable)


class Pieces:
    """Runs a batch in pieces that keep the observed tensors small: as many samples as fit `_PIECE_VALUES` values.

    How a batch is cut depends on the network alone, not on the batches before it: the runtime may add up in another
    order for another number of images, and a batch must give the same values in whichever process it runs. What a
    fixed batch asks for, or a single sample of a network without a batch, is a piece.
    """

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        self._inputs = inputs_of(model.graph)
        self._asked = tuple(names)
        self._names = [name for name in names if name not in {each.name for each in self._inputs}]
        self._observed = [each.name for each in self._inputs if each.name in names]
        # A network of one layer has nothing to observe but its input.
        self._session = open_session(ending_in(model, self._names)) if self._names else None
        self._called = name_in_memory(model)
        self._rows: int | None = None

    def run(self, batch: Inputs) -> Iterator[tuple[dict[str, FloatArray], int]]:
        """Each piece's tensors by name, and its number of samples; DataError where a value is not finite."""
        samples, form = fitted(batch, self._inputs, self._called)
        for name, array in samples.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                of = f" of '{name}'" if len(samples) > 1 else ""
                raise DataError(f"calibration data: NaN or infinite values{of}, expected finite inputs")
        count = count_of(samples)
        if not form.is_batched:
            for index in range(count):
                yield self._run(rows_of(samples, index), None), 1
            return
        if self._rows is None:
            self._rows = form.size or self._as_many_as_fit(rows_of(samples, slice(1)))
        for start in range(0, count, self._rows):
            rows = rows_of(samples, slice(start, start + self._rows))
            yield self._run(rows, form.size), count_of(rows)

    def merged(self, batch: Inputs, of: Callable[[str, FloatArray], T]) -> dict[str, T]:
        """What this says of each tensor by its name, of all pieces together, merged in their order."""
        found: dict[str, T] = {}
        for tensors, _ in self.run(batch):
            for name, tensor in tensors.items():
                own = of(name, tensor)
                found[name] = found[name].merged(own) if name in found else own
        return found

    def _as_many_as_fit(self, sample: Mapping[str, Array]) -> int:
        tensors = self._run(sample, None)
        # Each as often as it was asked for: of two networks that are compared, one may have a tensor where the other
        # has several, on grids of their own, and both are to be cut alike.
        values = sum(tensors[name].size for name in self._asked)
        return max(_PIECE_VALUES // max(values, 1), 1)

    def _run(self, inputs: Mapping[str, Array], size: int | None) -> dict[str, FloatArray]:
        tensors: dict[str, FloatArray] = {name: inputs[name] for name in self._observed}
        if self._session is not None:
            tensors |= zip(self._names, run_rows(self._session, inputs, size), strict=True)
        return tensors
