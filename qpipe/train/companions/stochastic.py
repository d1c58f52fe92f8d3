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
from qpipe.train.step import ProductStep
from qpipe.train.weighted import WeightedLayer

_WEIGHTS, _ACTIVATIONS = range(2)
_PURPOSE = 0x55B  # so that no other draw of the same seed and step is this one


class StochasticPrecision(Companion):
    """Draws at every update.

    Args:
        networks: F, and H where there is one: one draw serves both.
        fragments: each one's steps in F, as `block_fragments` and `layer_fragments` give them.
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
        fragments: Sequence[Sequence[ProductStep]],
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
        self._fragments = [
            [part for network in networks for step in steps for part in _parts(network, network.counterpart(step))]
            for steps in fragments
        ]

    def ratio(self, done: Fraction) -> float:
        """delta when this part of the run is done."""
        return float(self._ratio * max(Fraction(0), 1 - done / self._end))

    def begin_update(self, done: Fraction, update: int) -> None:
        """Draw B, and let each fragment be as it says."""
        ratio = self.ratio(done)
        drawn = np.random.default_rng([self._seed, _PURPOSE, update]).random((len(self._fragments), 2)) >= ratio
        for parts, quantized in zip(self._fragments, drawn, strict=True):
            for weights, activations in parts:
                weights.round_weights(bool(quantized[_WEIGHTS]))
                activations.round_in_training(bool(quantized[_ACTIVATIONS if self._apart else _WEIGHTS]))


def block_fragments(network: Executor, blocks: Sequence[Block]) -> list[tuple[ProductStep, ...]]:
    """A block's products, its projection's among them, without the network's first and last one."""
    inner = [tuple(step for step in (*block.products, *block.on_skip) if _is_inner(network, step)) for block in blocks]
    return [steps for steps in inner if steps]


def layer_fragments(network: Executor) -> list[tuple[ProductStep, ...]]:
    """Each product but the first and the last, with those whose input is rounded with its own: all of them or none."""
    found: defaultdict[Quantizer | None, list[ProductStep]] = defaultdict(list)
    for step in network.products():
        if _is_inner(network, step):
            found[input_quantizer(network, step)].append(step)
    return [tuple(together) for together in found.values()]


def _parts(network: Executor, step: ProductStep) -> list[tuple[WeightedLayer, Quantizer]]:
    """What rounds a product's weights, and what rounds its input, where that is not the network's."""
    source = input_quantizer(network, step)
    return [] if source is None else [(step.module, source)]


def _is_inner(network: Executor, step: ProductStep) -> bool:
    """Whether a product reads what a step before it gives, and gives something that is quantized again."""
    return input_quantizer(network, step) is not None and step.quantizer is not None
