"""Where the integers of a network begin: at its input, and anew behind each island of float.

An island's floats are whatever the runtime makes of them. It may compute the same nodes in another way beside other
integers, and two floats that differ in their last bit may round to two codes: nothing behind them could be compared
any more. So the specification runs once as it is, its floats where integers begin are taken, and both models are cut
there and given these: then every integer of each region must be equal, and no float is compared at all. The nodes of an
island are the same in both. What is looked up is cut nowhere: both compute its codes from the same integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qpipe.data import Batch
from qpipe.data import inputs as data_inputs
from qpipe.data.inputs import Input, Inputs, fitted, rows_of
from qpipe.errors import ModelError
from qpipe.ir.graph.ending import ending_in
from qpipe.ir.quantized.view import View
from qpipe.ops.lookup import lookup_of
from qpipe.runtime.cut import Array, begin_at, begin_name
from qpipe.runtime.outputs import model_input
from qpipe.runtime.probes import extremes
from qpipe.runtime.session import inputs_of, open_session, run_feeds, session_name


@dataclass(frozen=True, eq=False)
class Piece:
    """A batch that one run takes, and the floats, by name, at which integers begin behind islands and look-ups."""

    batch: Batch
    floats: dict[str, Array] = field(default_factory=dict)

    def feeds(self, session: ort.InferenceSession) -> dict[str, Array]:
        """What a model takes of it, by the names of its inputs."""
        floats = {begin_name(name): array for name, array in self.floats.items()}
        taken = inputs_of(session)
        wanted = [each for each in taken if each.name not in floats]
        given = {each.name: floats[each.name] for each in taken if each.name in floats}
        return given | _run_of(model_input(session, self.batch), wanted, session_name(session))

    def begins(self, view: View) -> list[Array]:
        """Float32, for each quantizer at which integers begin."""
        given = _run_of(self.batch.inputs, data_inputs.inputs_of(view.graph), "the network") | self.floats
        return [given[str(q.source.name)] for q in view.inputs]


def _run_of(inputs: Inputs, wanted: Sequence[Input], called: str) -> dict[str, Array]:
    """What one run takes: rows, or the only sample."""
    if not wanted:
        return {}
    samples, form = fitted(inputs, wanted, called)
    return samples if form.is_batched else rows_of(samples, 0)


class Regions:
    """Of a finalized QDQ model.

    Args:
        spec: the model. view: of it.
    """

    def __init__(self, spec: ir.Model, view: View) -> None:
        begins = [q for q in view.inputs if not q.source.is_graph_input()]
        self._grids = {str(q.source.name): q.rounded_to for q in begins if lookup_of(q.source) is None}
        self._taken = [str(q.source.name) for q in begins]
        self._session = open_session(ending_in(spec, self._taken)) if self._taken else None

    @property
    def are_cut(self) -> bool:
        """Whether there are islands."""
        return bool(self._grids)

    def apart(self, model: ir.Model) -> ir.Model:
        """The specification, or what was made from it, cut where integers begin behind islands."""
        return begin_at(model, list(self._grids)) if self._grids else model

    def piece(self, batch: Batch) -> Piece:
        """A batch with what its islands give; ModelError where that is NaN or infinite."""
        found = self._run(batch)
        for name, array in found.items():
            if not np.isfinite(array).all():
                raise ModelError(f"tensor '{name}' has NaN or infinite values, expected finite ones before a quantizer")
        return Piece(batch, found)

    def extreme_piece(self, batch: Batch, rng: np.random.Generator) -> Piece:
        """A batch, what is looked up of it, and random and extreme numbers in the place of what its islands give."""
        found = self._run(batch)
        for name, grid in self._grids.items():
            array = found[name]
            codes = extremes(array.shape, grid, rng).astype(np.float32)
            found[name] = (codes - grid.zero_point) * np.float32(grid.scale)
        return Piece(batch, found)

    def _run(self, batch: Batch) -> dict[str, Array]:
        if self._session is None:
            return {}
        arrays = run_feeds(self._session, Piece(batch).feeds(self._session))
        return dict(zip(self._taken, arrays, strict=True))
