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
from qpipe.train.companions.navigation import key_before, key_giving, key_of, section
from qpipe.train.executor import Executor, Values

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
            source = Executor(residual, batch_norm="batch")
            source = (source if network.is_quantized else source.without_quantizers()).train()
            own = [self._skip(source, block) for block in blocks]
            for skip in own:
                self._attach(network, skip)
            self._skips += own
        self.layers = nn.ModuleList(layer for skip in self._skips for layer in skip.layers)
        self.quantizers = nn.ModuleList(quantizer for skip in self._skips for quantizer in skip.quantizers)

    def begin_update(self, done: Fraction, update: int) -> None:
        """Set s."""
        self._scale = float(max(Fraction(0), 1 - done / self._fraction))

    def _skip(self, source: Executor, block: ResidualBlock) -> _Skip:
        if key_giving(source, block.start) is None:
            what = f"fade: {float(self._fraction):g}, but block '{block.name}' starts at the network's input"
            raise ModelError(f"{what}, expected 0, or blocks without it")
        return _Skip(source, block)

    def _attach(self, network: Executor, skip: _Skip) -> None:
        first, end = skip.ends(network)
        start = self._within(network, first) if skip.begins_within(network, first) else self._behind(network, first)

        def addend() -> torch.Tensor | None:
            return self._scale * skip(start()) if self._scale and network.training else None

        def added(y: torch.Tensor) -> torch.Tensor:
            more = addend()
            return y if more is None else y + more

        if skip.ends_within(network, end):
            network.tap(end, added)
        else:
            network.addends[end].append(addend)

    @staticmethod
    def _behind(network: Executor, first: str) -> Stream:
        """What the layer before gives, before its quantizer."""
        key = key_before(network, first)
        network.keep_unquantized(key)

        def stream() -> torch.Tensor:
            y = network.unquantized[key]
            assert y is not None
            return y

        return stream

    @staticmethod
    def _within(network: Executor, key: str) -> Stream:
        """What a layer's op gives, before the BatchNormalization that the block begins with."""
        layer = network.layer(key)
        assert layer is not None
        kept: list[torch.Tensor] = []

        def keep(y: torch.Tensor) -> torch.Tensor:
            kept[:] = [y]
            return y

        network.tap(key, keep)
        # Only when it is asked for, so not when s is 0.
        return lambda: layer.with_bias(kept[0])


class _Skip:
    """One skip of the residual network: from what its start's quantizer reads to what its Add does."""

    def __init__(self, network: Executor, block: ResidualBlock) -> None:
        self._main = [str(node.name) for node in block.main_nodes if not is_quantizer(node)]
        self._network = network
        self._section = section(network, block.start, block.skip)
        self._start, self._end = block.start, block.skip
        self.layers = [network.layers[str(i)] for i in self._section if str(i) in network.layers]
        start = key_giving(network, block.start)
        assert start is not None
        self._quantizer = network.quantizer(start)
        self._quantizer.owns = False
        inner = [network.quantizers[str(i)] for i in self._section if str(i) in network.quantizers]
        self.quantizers = [self._quantizer, *inner]

    def ends(self, network: Executor) -> tuple[str, str]:
        """The layers of the plain network that have the first and the last node of the main path.

        Of the nodes that it still has: a skip within the main path may be gone too.
        """
        left = {node.name for layer in network.plan for node in layer.nodes}
        main = [name for name in self._main if name in left]
        return key_of(network, main[0]), key_of(network, main[-1])

    def begins_within(self, network: Executor, first: str) -> bool:
        """Whether this layer of the plain network, which has the main path's first node, begins before it."""
        return network.plan[int(first)].node.name not in self._main

    def ends_within(self, network: Executor, end: str) -> bool:
        """Whether this layer of the plain network has a BatchNormalization behind the main path's end."""
        batch_norm = network.plan[int(end)].batch_norm
        return batch_norm is not None and batch_norm.name not in self._main

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        """What the start's quantizer reads -> the Add's operand."""
        values: Values = {self._start: self._quantizer(y)}
        self._network.run(values, self._section)
        return values[self._end]
