"""Knowledge distillation from a full-precision copy of the network that trains along with it.

    L_obj = L_1 + L_2 + sum_i beta l_di        (equation 4)

The student is the network that ships, L_1 its own loss. The teacher is "set to be the same as the student network": the
same graph without quantizers, on weights of its own that start as the student's float ones, normalizing by the
statistics of each batch. L_2 is its loss with the labels (the paper's: cross-entropy). l_di
is the mean squared error between what leaves
the i-th residual block, activated and before its quantizer, in both networks' forwards of the same batch.

What the paper leaves open, with a reference to Zhuang et al. 2018, whose hint is half the squared distance of two
feature maps: the features (here those of every block), the scale (the mean over all numbers, so that beta asks neither
for the batch nor for the width), and the gradients. "Both networks can be mutually updated", so the distance draws at
both. No logits are compared; that is what a frozen teacher is for (`qpipe.train.teacher`), and the two go together: the
joint teacher learns from the labels alone in any case. No beta is told: with 0.1 the distances of a 2-bit ResNet-20
weigh 0.3 to 0.5 together at first, beside losses of some units.

Source: Zhuang et al., *Training Quantized Network with Auxiliary Gradient Module*, sections 3.1.3 and 4.5.1; Zhuang et
al. 2018, *Towards Effective Low-bitwidth Convolutional Neural Networks*.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from qpipe.train.companion import Companion, Loss
from qpipe.train.companions.blocks import Block
from qpipe.train.executor import Executor
from qpipe.train.given import Given


class JointDistillation(Companion):
    """The teacher of a network.

    Args:
        network: the student.
        blocks: of it, in order.
        weight: beta.
        loss: of the labels.

    Raises:
        ModelError: no quantizer behind a block.
    """

    def __init__(self, network: Executor, blocks: Sequence[Block], *, weight: float, loss: Loss) -> None:
        super().__init__()
        self.weight, self.loss = weight, loss
        self.teacher = network.float_copy()
        self._ends = [(block.end, self.teacher.counterpart(block.end)) for block in blocks]
        for student, teacher in self._ends:
            student.keep_unquantized()
            teacher.keep_unquantized()

    def extra_loss(self, loss: Loss, labels: torch.Tensor, inputs: Given) -> torch.Tensor:
        """`L_2 + sum_i beta l_di`."""
        own = self.loss(self.teacher.answer(inputs), labels, inputs)
        features = [(student.activated.float(), teacher.activated.float()) for student, teacher in self._ends]
        distances = [F.mse_loss(student, teacher) for student, teacher in features]
        return own + self.weight * torch.stack(distances).sum()
