"""Gradual removal: each skip that was stripped comes back at first, scaled from 1 to 0, for training only.

    y = f(main(x) + s skip(x)),   s = 1 - done / fraction, and 0 from then on

The network that trains is the plain one all the time; what is added before the activation of a block's last layer is
the skip of the residual network that it was stripped from, on that network's own grids: the identity, Slice and Pad,
a pool, or a 1×1 convolution whose weights train along. When s is 0 nothing of it is computed any more.

Not in the AG paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import onnx_ir as ir
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.ir.layers import Layer
from qpipe.ir.residual import ResidualBlock, find_blocks, is_quantizer
from qpipe.train.companion import Companion
from qpipe.train.companions.navigation import key_before, key_giving, key_of, section
from qpipe.train.executor import Executor, Values


class FadingSkips(Companion):
    """The skips of stripped blocks.

    Args:
        networks: the plain one, and H where there is one.
        residual: the quantized network that it was stripped from.
        names: of the blocks that were stripped.
        fraction: of the run, over which s falls to 0.

    Raises:
        ModelError: a skip starts at the network's input, or in pre-activation order, where the plain network has no
            tensor that it could start or end at.
    """

    def __init__(
        self, networks: Sequence[Executor], residual: ir.Model, names: Sequence[str], *, fraction: Fraction
    ) -> None:
        super().__init__()
        self._fraction, self._scale = fraction, 1.0
        self._networks = tuple(networks)
        source = Executor(residual, batch_norm="batch").train()
        self._skips = [_Skip(source, block) for block in find_blocks(residual.graph) if block.name in names]
        self.layers = nn.ModuleList(layer for skip in self._skips for layer in skip.layers)
        self.quantizers = nn.ModuleList(quantizer for skip in self._skips for quantizer in skip.quantizers)
        for network in self._networks:
            for skip in self._skips:
                self._attach(network, skip)

    def begin_update(self, done: Fraction, update: int) -> None:
        """Set s."""
        self._scale = float(max(Fraction(0), 1 - done / self._fraction))

    def _attach(self, network: Executor, skip: _Skip) -> None:
        first, end = key_of(network, skip.first), key_of(network, skip.last)
        skip.check_ends(network.plan[int(first)].layer, network.plan[int(end)].layer)
        start = key_before(network, first)
        network.keep_unquantized(start)
        network.addends[end] = lambda: self._addend(network, start, skip)

    def _addend(self, network: Executor, start: str, skip: _Skip) -> torch.Tensor | None:
        y = network.unquantized[start]
        assert y is not None
        return self._scale * skip(y) if self._scale else None


class _Skip:
    """One skip of the residual network: from what its start's quantizer reads to what its Add does.

    first, last: names of the main path's first and last node.
    """

    def __init__(self, network: Executor, block: ResidualBlock) -> None:
        main = [node for node in block.main_nodes if not is_quantizer(node)]
        self.first, self.last = str(main[0].name), str(main[-1].name)
        self._name, self._main = block.name, {node.name for node in main}
        self._network = network
        self._section = section(network, block.start, block.skip)
        self._start, self._end = block.start, block.skip
        self.layers = [network.layers[str(i)] for i in self._section if str(i) in network.layers]
        start = key_giving(network, block.start)
        if start is None:
            raise ModelError(f"block '{block.name}': starts at the network's input, expected a layer before it")
        self._quantizer = network.quantizer(start)
        self._quantizer.owns = False
        inner = [network.quantizers[str(i)] for i in self._section if str(i) in network.quantizers]
        self.quantizers = [self._quantizer, *inner]

    def check_ends(self, first: Layer, last: Layer) -> None:
        """Raise ModelError where these layers of the plain network are not the main path's alone."""
        ends = [first.node, *(node for node in last.nodes if node is not last.activation)]
        if any(node.name not in self._main for node in ends):
            raise ModelError(
                f"block '{self._name}': begins with a BatchNormalization that is a part of the layer before it without "
                "skips, or the block behind it does, so its skip can't fade; expected no fade in pre-activation order"
            )

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        """What the start's quantizer reads -> the Add's operand."""
        values: Values = {self._start: self._quantizer(y)}
        self._network.run(values, self._section)
        return values[self._end]
