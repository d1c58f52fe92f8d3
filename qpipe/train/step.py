"""A step of the executor: one layer of the graph, as it runs.

    y = op(operands)        value = quantizer(activation(y))

Whatever a method of training wants of one layer it asks of the layer's step, and the step keeps what follows from it:
no tensor that somebody else holds is overwritten, and no product that is looked at is folded with the
BatchNormalization behind it. All of it is training's alone: a quantized network evaluates as its file does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import onnx_ir as ir
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.ir.quantized.view import QuantizedLayer
from qpipe.nodes import describe
from qpipe.ops import Role, TorchProduct
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.layer_norm import LayerNorm
from qpipe.train.quantizer import Quantizer, activate
from qpipe.train.weighted import Product, Through, WeightedLayer

Addend = Callable[[], torch.Tensor | None]
Function = Callable[..., torch.Tensor]
M = TypeVar("M", bound=nn.Module)


class Step:
    """One layer at its place among the others; this class itself is that of a layer without parameters.

    layer: of the graph. position: its index in `Executor.steps`, the same in all networks of one graph. reads, gives:
    the graph's values that it runs on and that it leaves. quantizer: what rounds its result; None where nothing does,
    as in a float network and behind a last layer.
    """

    def __init__(self, position: int, layer: QuantizedLayer, quantizer: Quantizer | None, function: Function) -> None:
        self.position, self.layer, self.quantizer, self._function = position, layer, quantizer, function
        self.reads: tuple[ir.Value, ...] = tuple(source.output for source in layer.sources) or layer.inputs
        self.gives = layer.result
        self.addends: list[Addend] = []
        self._taps: list[Through] = []
        self._keeps = False
        self._kept: tuple[torch.Tensor, ...] = ()
        # What a layer computes anew nobody else holds, and its own gradients don't need it.
        self._overwrites = layer.role in {Role.COMPUTE, Role.JOIN}

    def run(self, operands: Sequence[torch.Tensor], *, training: bool) -> torch.Tensor:
        """What the step gives for the values that it reads."""
        y = self._function(*operands)
        if training:
            # Functions are exact, in a type of their own, where nothing has a gradient: before weights, or in no_grad.
            y = y.to(next((x.dtype for x in operands if x.is_floating_point()), y.dtype))
            for through in self._taps:
                y = through(y)
            for addend in self.addends:
                more = addend()
                y = y if more is None else y + more
            if self._keeps:
                self._kept = (y,)
        return self._rounded(y, overwrite=self._overwrites)

    def rounded(self, y: torch.Tensor) -> torch.Tensor:
        """What the step gives where its op gives y: activated, and on its grid."""
        return self._rounded(y, overwrite=False)

    def keep_unquantized(self) -> None:
        """Let every forward of training leave in `unquantized` what is activated and rounded.

        ModelError where the file has no quantizer behind the layer.
        """
        self._show()
        self._keeps = True

    @property
    def unquantized(self) -> torch.Tensor:
        """What the last forward of training gave, before activation and quantizer; after `keep_unquantized`."""
        (y,) = self._kept
        return y

    @property
    def activated(self) -> torch.Tensor:
        """`unquantized` behind the activation: what the step would give in full precision."""
        return activate(self.unquantized, self.layer.function)

    def tap(self, through: Through) -> None:
        """Let what the op gives go through this in training, before BatchNormalization and activation.

        ModelError where the file has no quantizer behind the layer.
        """
        self._show()
        self._taps.append(through)

    def add(self, addend: Addend) -> None:
        """Add what this gives, or nothing where it is None, before the activation, in training."""
        self.addends.append(addend)

    def leave_unrounded(self) -> None:
        """Do without the quantizer for good: in evaluation too, which is no file's any more."""
        self.quantizer = None

    def _show(self) -> None:
        if self.layer.quantizer is None:
            raise ModelError(f"{describe(self.layer.node)}: has no quantizer behind it, expected one")
        self._overwrites = False

    def _rounded(self, y: torch.Tensor, *, overwrite: bool) -> torch.Tensor:
        if self.quantizer is None:
            return activate(y, self.layer.function, overwrite=overwrite)
        result: torch.Tensor = self.quantizer(y, overwrite=overwrite)
        return result


class ModuleStep(Step, Generic[M]):
    """One whose layer has parameters: `module`."""

    def __init__(self, position: int, layer: QuantizedLayer, quantizer: Quantizer | None, module: M) -> None:
        super().__init__(position, layer, quantizer, module)
        self.module = module


class ProductStep(ModuleStep[WeightedLayer]):
    """A Conv, Gemm or MatMul; its module has the weights and what rounds them."""

    def tap(self, through: Through) -> None:
        """As of every step."""
        self._show()
        self.module.tap(through)

    def replace_product(self, make: Callable[[TorchProduct], Product]) -> None:
        """Train with another arithmetic: see `WeightedLayer.replace_product`."""
        self._overwrites = False
        self.module.replace_product(make)


class NormStep(ModuleStep[StandaloneBatchNorm]):
    """A BatchNormalization that stands alone."""


class RowNormStep(ModuleStep[LayerNorm]):
    """A LayerNormalization."""
