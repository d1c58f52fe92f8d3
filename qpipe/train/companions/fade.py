"""Gradual removal: each skip that was stripped comes back at first, scaled from 1 to 0, for training only.

    y = f(main(x) + s skip(x)),   s = 1 - done / fraction, and 0 from then on

The network that trains is the plain one all the time; what is added before the activation of a block's last layer is
the skip of the residual network that it was stripped from, on that network's own grids: the identity, Slice and Pad,
a pool, or a 1×1 convolution whose weights train along. Each network, the one that ships, AG's and a float copy,
has skips of its own. In pre-activation order, where the BatchNormalization behind the Add is a part of the block's last
layer without skips, it is added before that, and the next skip starts there. When s is 0 nothing of it is computed any
more. A skip's BatchNormalization is always by the batch's statistics.

Not in the AG paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import onnx_ir as ir
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.ir.graph.residual import ResidualBlock, find_blocks, is_quantizer
from qpipe.train.companion import Companion
from qpipe.train.companions.navigation import section, step_before, step_giving, step_with
from qpipe.train.executor import Executor, Values
from qpipe.train.step import ModuleStep, ProductStep, Step

Stream = Callable[[], torch.Tensor]
"""What the last forward of training had where a skip starts."""


class FadingSkips(Companion):
    """The skips of stripped blocks.

    Args:
        networks: the plain one, and those that train along: H, and the full-precision copy of joint distillation.
        residual: the quantized network that it was stripped from.
        names: of the blocks that were stripped.
        fraction: of the run, over which s falls to 0.

    Raises:
        ModelError: a skip starts at the network's input.
    """

    def __init__(
        self, networks: Sequence[Executor], residual: ir.Model, names: Sequence[str], *, fraction: Fraction
    ) -> None:
        super().__init__()
        self._fraction, self._scale = fraction, 1.0
        self._networks = tuple(networks)
        blocks = [block for block in find_blocks(residual.graph) if block.name in names]
        self._skips: list[_Skip] = []
        for network in self._networks:
            source = Executor(residual, batch_norm="batch", full_precision=not network.is_quantized).train()
            own = [self._skip(source, block) for block in blocks]
            for skip in own:
                self._attach(network, skip)
            self._skips += own
        steps = [step for skip in self._skips for step in skip.section]
        self.layers = nn.ModuleList(step.module for step in steps if isinstance(step, ModuleStep))
        rounding = [step for skip in self._skips for step in (skip.start, *skip.section)]
        self.quantizers = nn.ModuleList(step.quantizer for step in rounding if step.quantizer is not None)

    def begin_update(self, done: Fraction, update: int) -> None:
        """Set s."""
        self._scale = float(max(Fraction(0), 1 - done / self._fraction))

    def _skip(self, source: Executor, block: ResidualBlock) -> _Skip:
        start = step_giving(source, block.start)
        if start is None:
            what = f"fade: {float(self._fraction):g}, but block '{block.name}' starts at the network's input"
            raise ModelError(f"{what}, expected 0, or blocks without it")
        return _Skip(source, block, start)

    def _attach(self, network: Executor, skip: _Skip) -> None:
        start, end = skip.stream(network), skip.end(network)

        def addend() -> torch.Tensor | None:
            return self._scale * skip(start()) if self._scale else None

        def added(y: torch.Tensor) -> torch.Tensor:
            more = addend()
            return y if more is None else y + more

        if skip.ends_within(end):
            end.tap(added)
        else:
            end.add(addend)


class _Skip:
    """One skip of the residual network: from what its start's quantizer reads to what its Add does.

    start: the step that gives what the skip reads. section: those on the skip.
    """

    def __init__(self, network: Executor, block: ResidualBlock, start: Step) -> None:
        self._main = [str(node.name) for node in block.main_nodes if not is_quantizer(node)]
        self._network = network
        self.start, self._end = start, block.skip
        self.section = section(network, block.start, block.skip)

    def stream(self, network: Executor) -> Stream:
        """What the plain network has where the skip starts."""
        first = self._within(network)[0]
        if isinstance(first, ProductStep) and first.layer.node.name not in self._main:
            return _product(first)
        before = step_before(network, first)
        before.keep_unquantized()
        return lambda: before.unquantized

    def end(self, network: Executor) -> Step:
        """The step of the plain network that has the last node of the main path."""
        return self._within(network)[-1]

    def ends_within(self, end: Step) -> bool:
        """Whether this step of the plain network has a BatchNormalization behind the main path's end."""
        batch_norm = end.layer.batch_norm
        return batch_norm is not None and batch_norm.name not in self._main

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        """What the start's quantizer reads -> the Add's operand."""
        values: Values = {self.start.gives: self.start.rounded(y)}
        self._network.run(values, self.section)
        return values[self._end]

    def _within(self, network: Executor) -> list[Step]:
        """The steps of the plain network that have the first and the last node of the main path.

        Of the nodes that it still has: a skip within the main path may be gone too.
        """
        left = {node.name for step in network.steps for node in step.layer.nodes}
        main = [name for name in self._main if name in left]
        return [step_with(network, name) for name in (main[0], main[-1])]


def _product(step: ProductStep) -> Stream:
    """What a step's op gives, before the BatchNormalization that the block begins with."""
    kept: list[torch.Tensor] = []

    def keep(y: torch.Tensor) -> torch.Tensor:
        kept[:] = [y]
        return y

    step.tap(keep)
    # Only when it is asked for, so not when s is 0.
    return lambda: step.module.with_bias(kept[0])
