"""Islands of float as a network trains: what torch makes of them, and the quantizers at which integers begin again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn

from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.train.floats import FloatNodes, Values, between
from qpipe.train.learned_quantizer import quantizer_of
from qpipe.train.quantizer import Quantizer
from qpipe.train.step import Step


@dataclass(frozen=True)
class Begin:
    """A value at which integers begin behind an island: `source` is float, `output` what layers read.

    Of a float network both are the same, and `quantizer` is None.
    """

    source: ir.Value
    output: ir.Value
    quantizer: ActivationQuantizer | None = None


class Island(nn.Module):
    """What has to be run before the step at `position`: float nodes, then what rounds their results.

    It computes in float32, in torch; a runtime may differ in a float's last bit. From the codes of its quantizers on,
    evaluation is exact.

    reads: the values that its nodes read. gives: all that it leaves.
    """

    def __init__(
        self, position: int, nodes: Sequence[ir.Node], reads: Sequence[ir.Value], begins: Sequence[Begin], rounds: bool
    ) -> None:
        super().__init__()
        self.position, self.reads, self._begins = position, tuple(reads), tuple(begins)
        self.nodes = FloatNodes(nodes, "is float between integers", trains=True)
        self.quantizers = nn.ModuleList(
            quantizer_of(begin.quantizer) for begin in begins if begin.quantizer is not None and rounds
        )
        self.gives = (*(v for node in nodes for v in node.outputs), *(begin.output for begin in begins))

    def forward(self, values: Values) -> dict[ir.Value, torch.Tensor]:
        """All that it gives, of the values that it reads."""
        known = self.nodes({value: values[value] for value in self.reads})
        for index, begin in enumerate(self._begins):
            x = known[begin.source]
            known[begin.output] = self.quantizers[index](x) if len(self.quantizers) else x
        return {value: known[value] for value in self.gives if value in known}

    def named_quantizers(self) -> Iterable[tuple[str, Quantizer]]:
        """By the names of the values that they round."""
        for begin, quantizer in zip(self._begins, self.quantizers, strict=False):
            assert isinstance(quantizer, Quantizer)
            yield str(begin.source.name), quantizer


def islands_of(
    steps: Sequence[Step], begins: Sequence[Begin], given: Collection[ir.Value], *, rounds: bool
) -> list[Island]:
    """The islands before each step that reads from one, in order.

    given: what is known before the first step. ModelError names a node that no gradient passes.
    """
    by_output: Mapping[ir.Value, Begin] = {begin.output: begin for begin in begins}
    known, found = set(given), list[Island]()
    for step in steps:
        needed = [by_output[v] for v in dict.fromkeys(step.reads) if v in by_output and v not in known]
        nodes: dict[ir.Node, None] = {}
        reads: dict[ir.Value, None] = {}
        for begin in needed:
            own, read = between(begin.source, known)
            nodes |= dict.fromkeys(own)
            reads |= dict.fromkeys(read)
        if needed:
            found.append(Island(step.position, list(nodes), list(reads), needed, rounds))
            known.update(found[-1].gives)
        known.add(step.gives)
    return found
