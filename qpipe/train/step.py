"""A step of the executor: one layer of the graph, as it runs.

    y = op(operands)      value = quantizer(activation(y))

Whatever a method of training changes about one layer it asks of the layer's step, and the step keeps what follows from
it: no tensor that somebody else holds is overwritten, and no product that is looked at is folded with the
BatchNormalization behind it. Every such change is training's alone: a quantized network evaluates as its file does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch

from qpipe.errors import ModelError
from qpipe.ir.graph.layers import Role
from qpipe.ir.quantized.view import QuantizedLayer
from qpipe.nodes import describe
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.quantizer import Quantizer, activate
from qpipe.train.weighted import Product, Through, WeightedLayer

Addend = Callable[[], torch.Tensor | None]
Function = Callable[..., torch.Tensor]


class Step(ABC):
    """One layer at its place among the others.

    layer: of the graph. position: its index in `Executor.steps`, the same in all networks of one graph. reads, gives:
    the graph's values that it runs on and that it leaves. quantizer: what rounds its result; None where nothing does,
    as in a float network and behind a last layer.
    """

    def __init__(self, position: int, layer: QuantizedLayer, quantizer: Quantizer | None) -> None:
        self.position, self.layer, self.quantizer = position, layer, quantizer
        self.reads: tuple[ir.Value, ...] = tuple(source.output for source in layer.sources) or layer.inputs
        self.gives = layer.result
        self.addends: list[Addend] = []
        self._keeps = False
        self._kept: tuple[torch.Tensor, ...] = ()
        # Of what a layer computes anew nobody else has anything, and its own gradients don't need it.
        self._overwrites = layer.role in {Role.COMPUTE, Role.JOIN}

    def run(self, operands: Sequence[torch.Tensor], *, training: bool) -> torch.Tensor:
        """What the step gives for the values that it reads."""
        y = self._compute(operands, training)
        for addend in self.addends if training else ():
            more = addend()
            y = y if more is None else y + more
        if self._keeps and training:
            self._kept = (y,)
        return self._finish(y, overwrite=self._overwrites)

    def finish(self, y: torch.Tensor) -> torch.Tensor:
        """What the step gives where its op and its addends give y, which stays as it is."""
        return self._finish(y, overwrite=False)

    def keep_unquantized(self) -> None:
        """Let every forward of training leave in `unquantized` what the step's quantizer reads.

        ModelError where the file has none.
        """
        self._look()
        self._keeps = True

    @property
    def unquantized(self) -> torch.Tensor:
        """What the last forward of training gave the quantizer, before the activation; after `keep_unquantized`."""
        (y,) = self._kept
        return y

    @property
    def activated(self) -> torch.Tensor:
        """`unquantized` behind the activation: what the step would give in full precision."""
        return self._activate(self.unquantized, overwrite=False)

    def tap(self, through: Through) -> None:
        """Let what the op gives go through this in training, before BatchNormalization and activation.

        ModelError where the file has no quantizer behind it.
        """
        self._look()
        self._tap(through)

    def add(self, addend: Addend) -> None:
        """Add what this gives, or nothing where it is None, before the activation; in training."""
        self.addends.append(addend)

    def leave_unrounded(self) -> None:
        """Do without the quantizer for good, in evaluation too, which is no file's any more."""
        self.quantizer = None

    @abstractmethod
    def _compute(self, operands: Sequence[torch.Tensor], training: bool) -> torch.Tensor:
        """What the op gives, with its BatchNormalization."""

    @abstractmethod
    def _tap(self, through: Through) -> None:
        """As `tap`."""

    def _look(self) -> None:
        if self.layer.quantizer is None:
            raise ModelError(f"{describe(self.layer.node)}: has no quantizer behind it, expected one")
        self._overwrites = False

    def _finish(self, y: torch.Tensor, *, overwrite: bool) -> torch.Tensor:
        if self.quantizer is None:
            return self._activate(y, overwrite=overwrite)
        result: torch.Tensor = self.quantizer(y, overwrite=overwrite)
        return result

    def _activate(self, y: torch.Tensor, *, overwrite: bool) -> torch.Tensor:
        return activate(y, self.layer.bound, overwrite=overwrite)


class ProductStep(Step):
    """A Conv, Gemm or MatMul: `module` has its weights, and their quantizer."""

    def __init__(
        self, position: int, layer: QuantizedLayer, quantizer: Quantizer | None, module: WeightedLayer
    ) -> None:
        super().__init__(position, layer, quantizer)
        self.module = module

    def replace_product(self, make: Callable[[Product], Product]) -> None:
        """Train with another arithmetic: see `WeightedLayer.replace_product`."""
        self._overwrites = False
        self.module.replace_product(make)

    def _compute(self, operands: Sequence[torch.Tensor], training: bool) -> torch.Tensor:
        y: torch.Tensor = self.module(*operands)
        return y

    def _tap(self, through: Through) -> None:
        self.module.tap(through)


class FunctionStep(Step):
    """A layer without parameters."""

    def __init__(self, position: int, layer: QuantizedLayer, quantizer: Quantizer | None, function: Function) -> None:
        super().__init__(position, layer, quantizer)
        self._function = function
        self._taps: list[Through] = []

    def _compute(self, operands: Sequence[torch.Tensor], training: bool) -> torch.Tensor:
        y = self._function(*operands)
        for through in self._taps if training else ():
            y = through(y)
        return y

    def _tap(self, through: Through) -> None:
        self._taps.append(through)


class NormStep(FunctionStep):
    """A BatchNormalization that stands alone."""

    def __init__(
        self, position: int, layer: QuantizedLayer, quantizer: Quantizer | None, module: StandaloneBatchNorm
    ) -> None:
        super().__init__(position, layer, quantizer, module)
        self.module = module
