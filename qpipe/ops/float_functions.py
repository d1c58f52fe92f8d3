"""Activations and normalizations that stay float, in torch, by ONNX's text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.nodes import float_attribute, int_attribute, string_attribute

if TYPE_CHECKING:
    import torch


def leaky_relu(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    """LeakyRelu."""
    return x.where(x >= 0, x * float_attribute(node, "alpha", 0.01))


def elu(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    """Elu."""
    return x.where(x >= 0, float_attribute(node, "alpha", 1.0) * x.clamp(max=0).expm1())


def softplus(_: ir.Node, x: torch.Tensor) -> torch.Tensor:
    """Softplus, which does not overflow."""
    return x.clamp(min=0) + (-x.abs()).exp().log1p()


def gelu(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    """Gelu, by the error function or its approximation."""
    if string_attribute(node, "approximate", "none") == "tanh":
        return x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()) / 2
    return x * (1 + (x / math.sqrt(2)).erf()) / 2


def selu(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    """Selu."""
    alpha, gamma = float_attribute(node, "alpha", 1.67326319), float_attribute(node, "gamma", 1.05070102)
    return gamma * x.where(x >= 0, alpha * x.clamp(max=0).expm1())


def celu(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    """Celu."""
    alpha = float_attribute(node, "alpha", 1.0)
    return x.where(x >= 0, alpha * (x.clamp(max=0) / alpha).expm1())


def _standardized(node: ir.Node, x: torch.Tensor, axes: list[int]) -> torch.Tensor:
    """Of mean 0 and variance 1 over the axes."""
    centred = x - x.mean(axes, True)
    return centred / ((centred * centred).mean(axes, True) + float_attribute(node, "epsilon", 1e-5)).sqrt()


def batch_norm(node: ir.Node, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    """BatchNormalization of its running statistics; parameters: gamma, beta, mean and variance, `[C]` each."""
    from torch.nn import functional as F

    gamma, beta, mean, variance = parameters
    return F.batch_norm(x, mean, variance, gamma, beta, eps=float_attribute(node, "epsilon", 1e-5))


def layer_norm(node: ir.Node, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """LayerNormalization from an axis on."""
    axis = int_attribute(node, "axis", -1) % x.ndim
    y = _standardized(node, x, list(range(axis, x.ndim))) * scale
    return y if bias is None else y + bias


def instance_norm(node: ir.Node, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """InstanceNormalization."""
    along = (-1, *[1] * (x.ndim - 2))
    return _standardized(node, x, list(range(2, x.ndim))) * scale.reshape(along) + bias.reshape(along)


def group_norm(node: ir.Node, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """One scale and one bias a channel, as opset 21 has it."""
    groups, along = int_attribute(node, "num_groups", 1), (-1, *[1] * (x.ndim - 2))
    y = _standardized(node, x.reshape(x.shape[0], groups, -1), [2]).reshape(x.shape)
    return y * scale.reshape(along) + bias.reshape(along)


def lp_norm(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    """LpNormalization, of p 1 or 2; zeros stay what they are."""
    length = vector_length(x, [int_attribute(node, "axis", -1)], keepdim=True, p=int_attribute(node, "p", 2))
    return x / length.clamp(min=1e-12)


def vector_length(x: torch.Tensor, axes: list[int], *, keepdim: bool, p: int = 2) -> torch.Tensor:
    """The p-norm over the axes, whose gradient at zero is zero, and no NaN as a root's would be."""
    import torch

    found: torch.Tensor = torch.linalg.vector_norm(x, p, axes, keepdim)
    return found
