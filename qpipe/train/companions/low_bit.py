"""MLS training: the products of a network on low-bit operands, whose rounding is drawn anew in every step.

Every draw comes from a generator of its own, keyed by the seed, the update, the batch within it, the process, the layer
and the role; so a checkpoint needs nothing but the number of updates. A weight is rounded once an update, for all
batches, processes and networks that share it.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, Algorithm 2 and appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Final, get_args

import onnx_ir as ir
import torch

from qpipe.arith.mls.generators import Role, generator_of
from qpipe.arith.mls.quantize import MlsTensor, quantize
from qpipe.errors import ModelError
from qpipe.ir.graph.edges import Passage, before_weights, feeding_weights
from qpipe.nodes import describe, group_count, rank
from qpipe.settings.arithmetic import ArithmeticSettings
from qpipe.train.companion import Companion, Loss
from qpipe.train.executor import Executor
from qpipe.train.given import Given
from qpipe.train.low_bit import LowBitProduct, Quantize
from qpipe.train.step import ProductStep
from qpipe.train.together import together

_WORDS: Final[dict[Role, str]] = {"weight": "a weight", "activation": "an activation", "error": "an error"}


class LowBit(Companion):
    """The arithmetic of these networks' products; evaluation, of a float graph, rounds to nearest.

    Args:
        networks: the one that ships, and those that train on its weights.
        settings: the formats, the rounding, and whether first and last layers take part.
        seed: of the draws.

    Raises:
        ModelError: a product reads a tensor without the axes that groups are of, or none is to be low-bit.
    """

    def __init__(self, networks: Sequence[Executor], settings: ArithmeticSettings, *, seed: int) -> None:
        super().__init__()
        self._formats = {role: settings.format_of(role) for role in get_args(Role)}
        self._is_stochastic, self._seed = settings.rounding == "stochastic", seed
        self._update = self._batch = 0
        self._trouble: str | None = None
        for index, network in enumerate(networks):
            steps = low_bit_steps(network, ends=settings.low_bit_ends)
            if not steps:
                raise ModelError(
                    "arithmetic: 'mls', but no layer lies between a first and a last one, see low_bit_ends"
                )
            for step in steps:
                self._replace(network, step, index)

    def begin_update(self, done: Fraction, update: int) -> None:
        """From here on the draws are this update's."""
        self._update, self._batch, self._trouble = update, 0, None

    def extra_loss(self, loss: Loss, labels: torch.Tensor, inputs: Given) -> None:
        """None; the forward after this one is of the next batch."""
        self._batch += 1

    def trouble(self) -> str | None:
        """The first tensor of the update that has no maximum."""
        return self._trouble

    def _replace(self, network: Executor, step: ProductStep, index: int) -> None:
        node = step.layer.node
        if rank(node.inputs[0]) == 1:
            raise ModelError(f"{describe(node)}: reads one dimension, expected two or more that groups count along")

        def begin() -> Quantize:
            at = (self._update, self._batch) if network.training and self._is_stochastic else None
            return partial(self._quantize, node, index, at)

        step.replace_product(lambda primitives: LowBitProduct(primitives, node, begin))

    def _quantize(
        self, node: ir.Node, network: int, at: tuple[int, int] | None, x: torch.Tensor, role: Role
    ) -> MlsTensor:
        """at: the update and its batch that draws are of; None rounds to nearest."""
        generator = None
        if at is not None:
            # A weight is the same for all that share it.
            batch, process = (0, 0) if role == "weight" else (at[1], together().index)
            name = str(node.name) if role == "weight" or not network else f"{node.name} of network {network}"
            generator = generator_of(self._seed, at[0], batch, process, name, role, x.device)
        try:
            return quantize(x, self._formats[role], generator, groups=group_count(node) if role == "weight" else 1)
        except FloatingPointError:
            self._trouble = self._trouble or f"{describe(node)}: {_WORDS[role]} is no finite number"
            return MlsTensor(torch.full_like(x, torch.nan), x.new_ones(()), x.new_ones(()))


def low_bit_steps(network: Executor, *, ends: bool) -> list[ProductStep]:
    """The products of a network; without ends those that have products before and behind them, as in the paper."""
    passages = [Passage(isinstance(step, ProductStep), step.reads, step.gives) for step in network.steps]
    given = {passage.gives for passage in passages}
    inputs = {value for passage in passages for value in passage.reads if value not in given}
    first, inner = before_weights(inputs, passages), feeding_weights(passages)
    return [step for step in network.products() if ends or (step.reads[0] not in first and step.gives in inner)]
