"""Float nodes of a graph in torch, one after the other, by the functions of `qpipe/ops/tail.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.ir.graph.layers import IS_FORMULA
from qpipe.nodes import constant_array, describe
from qpipe.ops.tail import tail_function, tail_parameters

Values = Mapping[ir.Value, torch.Tensor]


class FloatNodes(nn.Module):
    """Runs nodes that stay float, in float32.

    Args:
        nodes: in topological order.
        where: of messages: what they lie between.
        skipped: names of results in whose place the node's first input is given.
        trains: whether weights of their own, such as a LayerNormalization's, are parameters; else they are constants.

    Raises:
        ModelError: names a node that torch has no differentiable form of.
    """

    def __init__(
        self, nodes: Sequence[ir.Node], where: str, *, skipped: Collection[str] = (), trains: bool = False
    ) -> None:
        super().__init__()
        self._nodes, self._skipped = nodes, skipped
        self._functions, self._names = [], dict[ir.Value, str]()
        self.trained: dict[str, list[tuple[ir.Node, int]]] = {}
        for node in nodes:
            function = tail_function(node)
            if function is None:
                raise ModelError(f"{describe(node)}: {where}, and no gradient passes it")
            self._functions.append(function)
            for index, value in enumerate(node.inputs):
                array = constant_array(value)
                if value is None or array is None:
                    continue
                name = self._names.setdefault(value, f"constant{len(self._names)}")
                # What a formula gave is what it is.
                if trains and IS_FORMULA not in node.metadata_props and index in tail_parameters(node):
                    self.trained.setdefault(name, []).append((node, index))
        for value, name in self._names.items():
            tensor = torch.from_numpy(constant_array(value).copy())  # type: ignore[union-attr]
            if name in self.trained:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                # It moves with the network, and is no part of its state.
                self.register_buffer(name, tensor, persistent=False)

    def forward(self, values: Values) -> dict[ir.Value, torch.Tensor]:
        """What is given, and what each node makes of it; ModelError where torch can't run one."""
        # What trains in bfloat16 is summed up and compared in float32, and what evaluates exactly is float there.
        known = {value: x.float() if x.is_floating_point() else x for value, x in values.items()}
        for node, function in zip(self._nodes, self._functions, strict=True):
            inputs = [None if value is None else self._value(value, known) for value in node.inputs]
            if node.outputs[0].name in self._skipped:
                assert inputs[0] is not None
                known[node.outputs[0]] = inputs[0]
                continue
            try:
                found = function(node, *inputs)
            except (RuntimeError, TypeError, IndexError, ValueError) as error:
                raise ModelError(f"{describe(node)}: can't be trained through: {error}") from error
            known.update(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
        return known

    def borrow(self, lender: FloatNodes) -> None:
        """Train on another network's weights."""
        for name in self.trained:
            self.register_parameter(name, lender.get_parameter(name))

    def _value(self, value: ir.Value, known: Values) -> torch.Tensor:
        if value in known:
            return known[value]
        constant: torch.Tensor = getattr(self, self._names[value])
        return constant


def between(target: ir.Value, given: Collection[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
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
