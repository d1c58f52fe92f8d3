"""Additional losses: a classifier of its own on the end of each downsampling block, for training only.

    L_obj = L + sum_i alpha l_i        (equation 3)

l_i is the loss of a classifier with the labels (the paper's: cross-entropy): the global average of each channel, then a
linear layer, in full precision. It reads what leaves the block in the network's own forward of the same batch,
activated and before its quantizer, so a fading skip is in it, and the gradient comes back through no rounding of the
block's end. A downsampling block is one whose end has a smaller image than its first layer reads.

What the paper leaves open: the classifiers' form (theirs are drawn in Figure 2 without a size), and how they start:
here with the uniform weights of a linear layer, drawn from the seed, and no bias. Where the network is distilled from a
float teacher, the additional losses are from the labels all the same.

Source: Zhuang et al., *Training Quantized Network with Auxiliary Gradient Module*, sections 3.1.3 and 4.5.1, which set
alpha to 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.train.companion import Companion, Loss
from qpipe.train.companions.blocks import Block
from qpipe.train.companions.navigation import StepShapes, answer_shape, step_shapes
from qpipe.train.executor import Executor
from qpipe.train.given import Given

_PURPOSE = 0xADD  # so that no other draw of the same seed is this one


class AdditionalLosses(Companion):
    """Classifiers on a network's downsampling blocks.

    Args:
        network: that trains.
        blocks: of it, in order.
        weight: alpha.
        image_shape: of one input, without the batch.
        loss: of the labels, and of rows of scores.
        seed: of the classifiers' first weights.

    Raises:
        ModelError: no block changes the resolution, or what lies between the blocks are no images.
    """

    def __init__(
        self,
        network: Executor,
        blocks: Sequence[Block],
        *,
        weight: float,
        image_shape: Sequence[int],
        seed: int,
        loss: Loss,
    ) -> None:
        super().__init__()
        self.weight, self.loss = weight, loss
        shapes = step_shapes(network, image_shape)
        self._ends = [block.end for block in blocks if _is_downsampling(block, shapes)]
        if not self._ends:
            raise ModelError("additional_losses: no residual block makes its image smaller, expected one that does")
        classes = answer_shape(network, image_shape)[1]
        rng = np.random.default_rng([seed, _PURPOSE])
        self.classifiers = nn.ModuleList()
        for end in self._ends:
            end.keep_unquantized()
            self.classifiers.append(_classifier(shapes[end.position].result[1], classes, rng))

    def extra_loss(self, loss: Loss, labels: torch.Tensor, inputs: Given) -> torch.Tensor:
        """`sum_i alpha l_i`."""
        losses = [
            self.loss(classify(end.activated.float().mean((2, 3))), labels, inputs)
            for end, classify in zip(self._ends, self.classifiers, strict=True)
        ]
        return self.weight * torch.stack(losses).sum()


def _is_downsampling(block: Block, shapes: Sequence[StepShapes]) -> bool:
    before, behind = shapes[block.products[0].position].first_input, shapes[block.end.position].result
    if not len(before) == len(behind) == 4:
        raise ModelError("additional losses need images [N, C, H, W] between the blocks")
    return math.prod(behind[2:]) < math.prod(before[2:])


def _classifier(channels: int, classes: int, rng: np.random.Generator) -> nn.Linear:
    """`[N, channels] -> [N, classes]`, uniform within 1 / sqrt(channels)."""
    # Torch would draw them from the generator that all of the process shares.
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, channels, classes)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(rng.uniform(-1, 1, (classes, channels)) / channels**0.5))
        linear.bias.zero_()
    return linear
