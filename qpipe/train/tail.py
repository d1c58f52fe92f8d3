"""What training runs behind the last layers, up to what its loss reads: see `qpipe/ops/tail.py`."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.tasks.task import Ending
from qpipe.train.floats import FloatNodes, Values, between


class Tail(nn.Module):
    """From the values that are given to the one that the loss reads.

    Args:
        graph: that it is a part of.
        given: values that are known: the layers' results, the network's input, and that input's quantized form.
        results: those that leave the last layers; the loss reads the first where the ending names none.
        ending: what the loss reads, and how.

    Raises:
        ModelError: a node that torch has no differentiable form of, or no value of that name.
    """

    def __init__(self, graph: ir.Graph, given: Sequence[ir.Value], results: Sequence[ir.Value], ending: Ending) -> None:
        super().__init__()
        self.ending = ending
        self._target = _find(graph, ending.value) if ending.value else results[0]
        nodes, self.reads = between(self._target, frozenset(given))
        where = f"between the last layers and '{self._target.name}'"
        self._nodes = FloatNodes(nodes, where, skipped=ending.skipped)

    @property
    def target(self) -> ir.Value:
        """What the loss reads."""
        return self._target

    def forward(self, values: Values) -> torch.Tensor:
        """Of these values' batch: rows `[N, columns]`, scores `[N, classes, ...]`, or the value as it is."""
        known: Values = self._nodes({value: values[value] for value in self.reads})
        answer: torch.Tensor = known[self._target]
        if self.ending.rows:
            return answer.flatten(1) if answer.ndim > 1 else answer[:, None]
        return answer.movedim(self.ending.class_axis, 1) if self.ending.class_axis != 1 else answer


def _find(graph: ir.Graph, name: str) -> ir.Value:
    for node in graph:
        for value in node.outputs:
            if value.name == name:
                return value
    raise ModelError(f"no node gives '{name}', which training's loss is to read")
