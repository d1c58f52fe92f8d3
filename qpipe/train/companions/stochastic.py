"""SSP, stochastic structured precision: parts of the network are left unquantized at random, ever fewer of them.

Fragments f_1 .. f_N are residual blocks or single layers, never the network's first or last layer; layers whose input
one quantizer rounds, as it does for GroupNet's bases, are one fragment. At every step each is quantized with
probability 1 - delta; delta falls linearly to 0. With `draws` "apart" there is a draw for its weights and one for the
activations that they multiply (the matrix B, "W/A" in Table 4), else one for both. What is not drawn uses its weights
before they are rounded and its activations before they are clipped and rounded. Evaluation is always quantized
throughout.

Source: Zhuang et al., *Training Quantized Network with Auxiliary Gradient Module*, section 3.2 and Algorithm 2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from qpipe.errors import ModelError
from qpipe.settings.training import Draws
from qpipe.train.companion import Companion
from qpipe.train.companions.blocks import Block
from qpipe.train.companions.navigation import input_quantizer
from qpipe.train.executor import Executor
from qpipe.train.quantizer import Quantizer
from qpipe.train.weighted import WeightedLayer

_WEIGHTS, _ACTIVATIONS = range(2)
_PURPOSE = 0x55B  # so that no other draw of the same seed and step is this one


class StochasticPrecision(Companion):
    """Draws at every update.

    Args:
        networks: F, and H where there is one: one draw serves both.
        fragments: the keys of each one's layers, as `block_fragments` and `layer_fragments` give them.
        draws: the policy of Table 4; "apart" is best with blocks.
        ratio: delta at first.
        end: the part of the run, of 1, after which it is 0.
        seed: of the draws, which hang on it and the update alone.

    Raises:
        ModelError: there are no fragments.
    """

    def __init__(
        self,
        networks: Sequence[Executor],
        fragments: Sequence[Sequence[str]],
        *,
        draws: Draws,
        ratio: float,
        end: Fraction,
        seed: int,
    ) -> None:
        super().__init__()
        self._ratio, self._end, self._seed, self._apart = ratio, end, seed, draws == "apart"
        if not fragments:
            raise ModelError("ssp: nothing to draw, expected layers of weights between the first and the last one")
        self._fragments = [[_part(network, key) for network in networks for key in keys] for keys in fragments]

    def ratio(self, done: Fraction) -> float:
        """delta when this part of the run is done."""
        return float(self._ratio * max(Fraction(0), 1 - done / self._end))

    def begin_update(self, done: Fraction, update: int) -> None:
        """Draw B, and let each fragment be as it says."""
        ratio = self.ratio(done)
        drawn = np.random.default_rng([self._seed, _PURPOSE, update]).random((len(self._fragments), 2)) >= ratio
        for parts, quantized in zip(self._fragments, drawn, strict=True):
            for weights, activations in parts:
                weights.rounds = bool(quantized[_WEIGHTS])
                activations.rounds = bool(quantized[_ACTIVATIONS if self._apart else _WEIGHTS])


def block_fragments(network: Executor, blocks: Sequence[Block]) -> list[tuple[str, ...]]:
    """A block's layers, without the network's first and last one."""
    inner = [tuple(key for key in block.layers if _is_inner(network, key)) for block in blocks]
    return [keys for keys in inner if keys]


def layer_fragments(network: Executor) -> list[tuple[str, ...]]:
    """Each layer but the first and the last, with those whose input is rounded with its own: all of them or none."""
    found: defaultdict[Quantizer | None, list[str]] = defaultdict(list)
    for key, layer in network.layers.items():
        if isinstance(layer, WeightedLayer) and _is_inner(network, key):
            found[input_quantizer(network, key)].append(key)
    return [tuple(together) for together in found.values()]


def _part(network: Executor, key: str) -> tuple[WeightedLayer, Quantizer]:
    """A layer, which rounds its weights, and what rounds its input."""
    layer, source = network.layers[key], input_quantizer(network, key)
    assert isinstance(layer, WeightedLayer)
    assert source is not None
    return layer, source


def _is_inner(network: Executor, key: str) -> bool:
    """Whether a layer reads what a layer before it gives, and gives something that is quantized again."""
    return input_quantizer(network, key) is not None and key in network.quantizers
