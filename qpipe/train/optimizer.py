"""What applies gradients: to the network, and at a rate of their own to the parameters of some companions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from qpipe.settings import FinetuneSettings
from qpipe.train.companion import Companion

RATE: Final = "rate"
"""What a group of parameters multiplies the learning rate by."""


def optimizer_of(
    trained: Sequence[torch.nn.Parameter], companions: Sequence[Companion], settings: FinetuneSettings
) -> torch.optim.Optimizer:
    """As the settings say; what companions with a rate of their own have is a group for each, without weight decay.

    trained: everything, the companions' parameters among it.
    """
    own = [companion for companion in companions if companion.rate is not None]
    apart = {p for companion in own for p in companion.parameters()}
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if p not in apart], RATE: 1.0}]
    groups += [{"params": list(each.parameters()), RATE: each.rate, "weight_decay": 0.0} for each in own]
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(groups, settings.lr, settings.momentum, weight_decay=settings.weight_decay)
