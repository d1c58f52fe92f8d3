"""Inputs that the gate makes up: extreme integers where integers begin; else what the data have, or random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.data import Batch, Preprocess
from qpipe.data.carried import carried_preprocess
from qpipe.data.inputs import Array, Form, Input, Inputs, by_name, form_of, inputs_of
from qpipe.ir.quantized.view import View
from qpipe.runtime.probes import extremes, random_numbers

EXTREME_ROWS = 16


@dataclass
class MadeInputs:
    """Of a finalized QDQ model and what was made from it.

    example: samples of the data, from which what nothing quantizes is taken: it may be an index, or count something.
    """

    view: View
    lowered: ir.Model
    rng: np.random.Generator
    example: Inputs | None = None

    def __post_init__(self) -> None:
        self._inputs = inputs_of(self.view.graph)

    @property
    def form(self) -> Form:
        """How the model's samples become runs."""
        return form_of(self._inputs)

    def extreme(self) -> Batch:
        """Random and extreme integers, as codes of the first quantizers or as pixels."""
        if self.lowered.graph.inputs[0].dtype is ir.DataType.UINT8 and self._inputs[0].dtype != np.uint8:
            preprocess = carried_preprocess(self.lowered) or Preprocess()
            shape = self._sample(self._inputs[0])
            pixels_shape = (*shape[1:], shape[0]) if preprocess.layout == "NCHW" else shape
            pixels = extremes((EXTREME_ROWS, *pixels_shape), QuantSpec.unsigned(8, 0), self.rng)
            return Batch(preprocess(pixels), pixels=pixels)
        quantizers = {str(q.source.name): q for q in self.view.inputs if q.source.is_graph_input()}
        found = {}
        for each in self._inputs:
            if (first := quantizers.get(each.name)) is not None:
                grid = first.rounded_to
                codes = extremes((EXTREME_ROWS, *self._sample(each)), grid, self.rng).astype(np.float32)
                found[each.name] = (codes - grid.zero_point) * first.step
            else:
                found[each.name] = self._plain(each, EXTREME_ROWS)
        return Batch(found)

    def plain(self, count: int) -> Batch:
        """So many samples that are nothing special."""
        return Batch({each.name: self._plain(each, count) for each in self._inputs})

    def _plain(self, each: Input, count: int) -> Array:
        if self.example is None:
            return random_numbers((count, *self._sample(each)), each.dtype, self.rng)
        known = by_name(self.example, [one.name for one in self._inputs], "the network")[each.name]
        return known[np.arange(count) % len(known)]

    def _sample(self, each: Input) -> tuple[int, ...]:
        """The shape of one sample, of what is open 1."""
        sizes = (each.shape or ())[self.form.is_batched :]
        return tuple(size if isinstance(size, int) else 1 for size in sizes)
