"""Adaptive gradient clipping: how far an update may turn a channel's weights.

Behind a normalization only the direction of a channel's weights W counts, and a gradient G turns them by about
lr |G| / |W|. A network whose weights are short for their gradients is torn apart within a few updates at a rate that
trains others well. With the limit lambda, for each channel of a layer that a normalization follows:

    G <- lambda max(|W|, 1e-3) G / |G|   where   |G| > lambda max(|W|, 1e-3)

So are those of what trains along with the network, a full-precision copy and skips that fade; AG's adaptors, which are
no layers of a network, are left as they are.

Source: Brock, De, Smith and Simonyan 2021, *High-Performance Large-Scale Image Recognition Without Normalization*,
section 4, equation 3, which leaves the last layer out too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import nn

from qpipe.ops.weight_layout import output_axis
from qpipe.train.weighted import WeightedLayer

SHORTEST: Final = 1e-3
"""The norm that weights are taken to have at least, or those that are 0 could never change."""


def weighted_layers(modules: Iterable[nn.Module]) -> list[WeightedLayer]:
    """All layers of the modules that have weights; of those that share them the first."""
    found: dict[nn.Parameter, WeightedLayer] = {}
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, WeightedLayer):
                found.setdefault(layer.weight, layer)
    return list(found.values())


@torch.no_grad()
def clip_gradients(modules: Iterable[WeightedLayer], limit: float) -> None:
    """Shorten the gradients of the layers' weights in place; `limit` is lambda, and 0 is none."""
    for module in modules if limit else ():
        gradient = module.weight.grad
        if module.has_batch_norm and gradient is not None:
            axis = output_axis(module.layer.node)
            longest = limit * _norms(module.weight, axis).clamp_min(SHORTEST)
            gradient.mul_((longest / _norms(gradient, axis)).clamp_max(1.0).nan_to_num(1.0))


def _norms(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Of each channel, in a shape that multiplies `values`."""
    others = [d for d in range(values.ndim) if d != axis]
    norms: torch.Tensor = torch.linalg.vector_norm(values, dim=others, keepdim=True)
    return norms
