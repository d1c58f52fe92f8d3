"""What training runs behind the last layers, up to what its loss reads: see `qpipe/ops/tail.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.nodes import constant_array, describe
from qpipe.ops.tail import tail_function
from qpipe.tasks.task import Ending

Values = Mapping[ir.Value, torch.Tensor]


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
        self._nodes, self.reads = _between(self._target, frozenset(given))
        self._functions = []
        self._names: dict[ir.Value, str] = {}
        for node in self._nodes:
            function = tail_function(node)
            if function is None:
                raise ModelError(
                    f"{describe(node)}: between the last layers and '{self._target.name}', and no gradient passes it"
                )
            self._functions.append(function)
            for value in node.inputs:
                if value is not None and value not in self._names and (array := constant_array(value)) is not None:
                    self._names[value] = f"constant{len(self._names)}"
                    # It moves with the network, and is no part of its state.
                    self.register_buffer(self._names[value], torch.from_numpy(array.copy()), persistent=False)

    @property
    def target(self) -> ir.Value:
        """What the loss reads."""
        return self._target

    def forward(self, values: Values) -> torch.Tensor:
        """Of these values' batch: rows `[N, columns]`, scores `[N, classes, ...]`, or the value as it is."""
        # What trains in bfloat16 is summed up and compared in float32.
        read = {value: values[value] for value in self.reads}
        known = {value: x.float() if x.dtype is torch.bfloat16 else x for value, x in read.items()}
        for node, function in zip(self._nodes, self._functions, strict=True):
            inputs = [None if value is None else self._value(value, known) for value in node.inputs]
            if node.outputs[0].name in self.ending.skipped:
                assert inputs[0] is not None
                known[node.outputs[0]] = inputs[0]
                continue
            try:
                found = function(node, *inputs)
            except (RuntimeError, TypeError, IndexError, ValueError) as error:
                raise ModelError(f"{describe(node)}: can't be trained through: {error}") from error
            outputs = found if isinstance(found, tuple) else (found,)
            known.update(zip(node.outputs, outputs, strict=False))
        answer = known[self._target]
        if self.ending.rows:
            return answer.flatten(1) if answer.ndim > 1 else answer[:, None]
        return answer.movedim(self.ending.class_axis, 1) if self.ending.class_axis != 1 else answer

    def _value(self, value: ir.Value, known: Values) -> torch.Tensor:
        if value in known:
            return known[value]
        constant: torch.Tensor = getattr(self, self._names[value])
        return constant


def _find(graph: ir.Graph, name: str) -> ir.Value:
    for node in graph:
        for value in node.outputs:
            if value.name == name:
                return value
    raise ModelError(f"no node gives '{name}', which training's loss is to read")


def _between(target: ir.Value, given: frozenset[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes that compute the target from what is given, in order, and what of it they read."""
    nodes: dict[ir.Node, None] = {}
    reads: dict[ir.Value, None] = {}
    stack = [(target, False)]
    while stack:
        value, is_done = stack.pop()
        producer = value.producer()
        if value in given:
            reads[value] = None
        elif producer is not None and (is_done or producer not in nodes) and constant_array(value) is None:
            if is_done:
                nodes[producer] = None
            else:
                stack.append((value, True))
                stack.extend((each, False) for each in producer.inputs if each is not None)
    return list(nodes), list(reads)
