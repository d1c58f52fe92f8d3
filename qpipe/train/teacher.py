"""Distillation: the float network, before it was quantized, is the teacher of the quantized one.

Not in the FAQ paper. Source: Hinton, Vinyals and Dean 2015, *Distilling the Knowledge in a Neural Network*; with a
quantized student, Mishra and Marr 2018 (*Apprentice*) and Polino et al. 2018.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch.nn import functional as F

from qpipe.errors import ModelError
from qpipe.settings.training import Precision
from qpipe.train.companion import Loss
from qpipe.train.executor import Executor


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The loss without a teacher."""
    return F.cross_entropy(logits, labels)


def float_teacher(model: ir.Model, *, precision: Precision = "fp32") -> Executor:
    """The float network that a trainable QDQ model still holds, or a float model, frozen and on running statistics.

    The QDQ file keeps the float weights, so it is the network that `calibrate` was given (weights of unsafe pairs lie
    at their codes), or, of a fine-tuned file with fixed-point weights, the float copy as it was trained, which may know
    less than the quantized network. Other weights are no float network's any more once they were trained.
    """
    return Executor(model, precision=precision, full_precision=True).requires_grad_(False)


def distillation(teacher: torch.nn.Module, *, weight: float, temperature: float) -> Loss:
    """`(1 - weight) CE(y, labels) + weight T**2 KL(teacher / T || y / T)`; T**2 keeps the gradients' size (section 2).

    Args:
        teacher: gives logits, as a tuple of which the first counts.
        weight: of the teacher's part, 0 to 1.
        temperature: T, by which both networks' logits are divided.
    """

    last: list[tuple[torch.Tensor, torch.Tensor]] = []

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        """The teacher's logits; two networks that learn from the same batch ask once."""
        if not last or last[0][0] is not inputs:
            with torch.no_grad():
                last[:] = [(inputs, teacher(inputs)[0].flatten(1).float())]
        return last[0][1]

    def loss(logits: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        told = answer(inputs)
        if told.shape != logits.shape:
            raise ModelError(f"the teacher has {told.shape[1]} classes, the network {logits.shape[1]}")
        soft = F.kl_div(
            F.log_softmax(logits / temperature, 1),
            F.log_softmax(told / temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - weight) * F.cross_entropy(logits, labels) + weight * temperature**2 * soft

    return loss
