"""The product of a layer on low-bit operands, forward and backward: the arithmetic of MLS training.

    Z = op(qA, qW)        G = op'(qA, qE)        dL/dA = op''(qE, qW)        qX = quantize(X)

E is the gradient at Z, quantized once for both its uses. W and A get the gradients of what they were quantized to
(straight through). All else of a layer is float: BatchNormalization, activation, and a bias, whose gradient is the sum
of E as it came (the paper's convolutions have none).

Operands enter the op without their tensors' scales, as multiples of their groups'; the scales of both go into the
smaller of the two.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, Algorithm 2 and section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.autograd.function import once_differentiable

from qpipe.arith.mls.formats import MlsFormat
from qpipe.arith.mls.generators import Role
from qpipe.arith.mls.quantize import MlsTensor, quantize
from qpipe.arith.namespace import FloatArray
from qpipe.nodes import group_count
from qpipe.ops import TorchProduct, product_of
from qpipe.train.straight_through import layout_of

Quantize = Callable[[torch.Tensor, Role], MlsTensor]
"""`(x, role) -> quantized x`, of an operand as a convolution has it."""


def as_convolution(node: ir.Node, x: torch.Tensor, role: Role) -> torch.Tensor:
    """A view of a product's operand whose first two axes are those that groups are counted along.

    W is `[co, ci, ...]`, A `[n, ci, ...]`, E `[n, co, ...]`: a Gemm or MatMul is a 1×1 convolution, on as many pixels
    as it has rows for each image.
    """
    axis, own = _axes(node, role)
    return x.movedim(own, axis)


def as_the_node(node: ir.Node, x: torch.Tensor, role: Role) -> torch.Tensor:
    """The inverse of `as_convolution`."""
    axis, own = _axes(node, role)
    return x.movedim(axis, own)


def rounded_weight(node: ir.Node, weight: FloatArray, fmt: MlsFormat) -> FloatArray:
    """A product's weight, in the node's layout, as a forward that rounds to nearest has it."""
    view = as_convolution(node, torch.from_numpy(np.array(weight, np.float32)), "weight")
    found = quantize(view, fmt, None, groups=group_count(node))
    values: FloatArray = as_the_node(node, found.values * found.scale, "weight").contiguous().numpy()
    return values


def _axes(node: ir.Node, role: Role) -> tuple[int, int]:
    op = product_of(node)
    return (0, op.output_axis(node)) if role == "weight" else (1, op.channel_axis)


@dataclass(frozen=True)
class LowBitProduct:
    """A `Product` of `qpipe.train.weighted`.

    begin: asked at each forward; what it gives quantizes the operands of this forward and of its backward.
    """

    op: TorchProduct
    node: ir.Node
    begin: Callable[[], Quantize]

    def __call__(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        """`x`, `w` float32 -> the op's result, plus a bias `[C]`."""
        y: torch.Tensor = _LowBit.apply(x, w, b, self)  # type: ignore[no-untyped-call]
        return y

    def quantized(self, quantize: Quantize, x: torch.Tensor, role: Role) -> tuple[torch.Tensor, torch.Tensor]:
        """An operand without its tensor's scale, as the node has it; and that scale."""
        found = quantize(as_convolution(self.node, x, role), role)
        return as_the_node(self.node, found.values, role), found.scale


class _LowBit(torch.autograd.Function):
    """What it keeps for the backward are the quantized operands."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, product: LowBitProduct
    ) -> torch.Tensor:
        quantize = product.begin()
        ctx.product, ctx.quantize, ctx.layout = product, quantize, layout_of(x)
        x, x_scale = product.quantized(quantize, x, "activation")
        w, w_scale = product.quantized(quantize, w, "weight")
        ctx.save_for_backward(x, w, x_scale, w_scale)
        return product.op(x, w * (w_scale * x_scale), b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w, x_scale, w_scale = ctx.saved_tensors
        product: LowBitProduct = ctx.product
        # Native kernels are slow on a mix of layouts.
        error = gradients[0].contiguous(memory_format=ctx.layout)
        e, e_scale = product.quantized(ctx.quantize, error, "error")
        needs_x, needs_w, needs_b, _ = ctx.needs_input_grad
        of_x: torch.Tensor | None
        of_w: torch.Tensor | None
        if needs_x and needs_w:
            of_x, of_w = product.op.gradients(x, w * (w_scale * e_scale), e)
        else:
            of_x = product.op.grad_input(x.shape, w * (w_scale * e_scale), e) if needs_x else None
            of_w = product.op.grad_weight(x, w.shape, e) if needs_w else None
        of_w = None if of_w is None else of_w * (x_scale * e_scale)
        of_b = as_convolution(product.node, error, "error").transpose(0, 1).flatten(1).sum(1) if needs_b else None
        return of_x, of_w, of_b, None
