"""What an update applies, of several batches and several processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from qpipe.train.learned_quantizer import LearnedQuantizer
from qpipe.train.together import Together
from qpipe.train.weighted import WeightedLayer


@torch.no_grad()
def bring_together(
    roots: Sequence[nn.Module], optimizer: torch.optim.Optimizer, group: Together, sums: torch.Tensor, count: int
) -> None:
    """Make gradients the mean over `count` real batches, and add up what the processes have of each.

    Each process normalized its share by that share's statistics: the running ones become their mean, as do the bases
    of learned levels. roots: the modules that train. sums: of this process, any numbers.
    """
    gradients = [p.grad for each in optimizer.param_groups for p in each["params"] if p.grad is not None]
    if count > 1:
        torch._foreach_div_(gradients, count)
    if group.count == 1:
        return
    modules = list(dict.fromkeys(module for root in roots for module in root.modules()))
    layers = [module for module in modules if isinstance(module, WeightedLayer)]
    normalized = [layer for layer in layers if layer.has_batch_norm and layer.mode == "batch"]
    running = [statistic for layer in normalized for statistic in (layer.mean, layer.variance)]
    running += [module.basis for module in modules if isinstance(module, LearnedQuantizer)]
    for statistic in running:
        statistic.div_(group.count)
    group.add_up([*gradients, *running, sums])
