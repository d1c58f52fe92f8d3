"""Gemm and MatMul with a constant matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.exact import product_type
from qpipe.arith.namespace import A, Float64Array, FloatArray, IntArray
from qpipe.nodes import MICROSOFT, constant_array, float_attribute, int_attribute, rank
from qpipe.ops.base import Refusal
from qpipe.ops.forms import Operands, StandardForm
from qpipe.ops.product import Places, Product, TorchProduct
from qpipe.ops.quantizer_parts import stored
from qpipe.ops.refused import OR_LEAVE

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import InnerWeighted, LastLayer, Weighted
    from qpipe.ir.quantized.view_weights import FinalWeight
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder


class Gemm(Product):
    """`y = x w`; the bias belongs to the affine map behind it."""

    op_types = ("Gemm", "MatMul")
    parameters = (
        Operands("Gemm", 1, 2),
        Operands("MatMul", 1, 2),
        Operands("MatMulInteger", 1, 4),
        Operands("QLinearMatMul", 3, 8),
        Operands("QGemm", 3, 6),
    )
    standard_forms = (StandardForm("QGemm", "Gemm", slice(0, 6, 3)),)
    channel_axis = -1
    computed_weight = Refusal(
        f"its weight is computed by the graph: write it as a MatMul of two activations, {OR_LEAVE}"
    )

    def takes(self, node: ir.Node) -> bool:
        """All but a MatMul without a constant."""
        return node.op_type != "MatMul" or any(constant_array(stored(value)) is not None for value in node.inputs)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Constants; a Gemm is `x w + b`, a MatMul's weight a matrix."""
        found = super().refusal(node)
        if found is not None:
            return found
        if node.op_type == "MatMul":
            dims = rank(node.inputs[1])
            matrix = "expected a matrix: write it as one MatMul for each matrix"
            return None if dims == 2 else Refusal(f"its weight has {dims} dimensions, {matrix}")
        odd = [f"{name} is {value:g}" for name in ("alpha", "beta") if (value := float_attribute(node, name, 1.0)) != 1]
        odd += ["transA is 1"] if int_attribute(node, "transA", 0) else []
        if not odd:
            return None
        return Refusal(f"{', '.join(odd)}: put the factors into the weights and the bias, and transpose before it")

    def has_channels(self, node: ir.Node) -> bool:
        """Of a MatMul only in two dimensions."""
        return node.op_type != "MatMul" or rank(node.inputs[0]) == 2

    def torch(self, node: ir.Node) -> TorchProduct:
        """`(x [..., K], w as the node stores it, b [C] or None) -> [..., C]`."""
        from torch.nn import functional as F

        transposed = self.output_axis(node) == 0

        def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            return F.linear(x, w if transposed else w.T, b)

        def grad_input(sizes: Sequence[int], w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            return g @ (w if transposed else w.T)

        def grad_weight(x: torch.Tensor, sizes: Sequence[int], g: torch.Tensor) -> torch.Tensor:
            inputs, outputs = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
            return outputs.T @ inputs if transposed else inputs.T @ outputs

        def gradients(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return grad_input(x.shape, w, g), grad_weight(x, w.shape, g)

        return TorchProduct(forward, grad_input, grad_weight, gradients)

    def spatial_dims(self, node: ir.Node) -> int:
        """None: the channels are last."""
        return 0

    def output_axis(self, node: ir.Node) -> int:
        """`[C, K]` where it is stored transposed, else `[K, C]`."""
        return 0 if int_attribute(node, "transB", 0) else 1

    def to_rows(self, node: ir.Node, weight: A) -> A:
        """`[C, K]`."""
        return weight if self.output_axis(node) == 0 else weight.T

    def to_weight(self, node: ir.Node, rows: A, shape: tuple[int, ...]) -> A:
        """The inverse of `to_rows`."""
        return rows if self.output_axis(node) == 0 else rows.T

    def takes_bias(self, node: ir.Node) -> bool:
        """A Gemm."""
        return node.op_type != "MatMul"

    def drawn_places(self, node: ir.Node, x: FloatArray, count: int, rng: np.random.Generator) -> Places:
        """Of a row."""
        return (rng.integers(0, x.size // x.shape[-1], count),)

    def rows_at(self, node: ir.Node, x: FloatArray, places: Places) -> FloatArray:
        """Rows of x, one group."""
        return x.reshape(-1, x.shape[-1])[places][None]

    def results_at(self, y: FloatArray, places: Places) -> FloatArray:
        """Rows of y."""
        return y.reshape(-1, y.shape[-1])[places]

    def passing(
        self, node: ir.Node, weight: FloatArray, outputs: IntArray, inputs: IntArray, factor: Float64Array
    ) -> FloatArray:
        """Ones in the matrix."""
        rows = self.to_rows(node, weight.copy())
        rows[outputs] = 0
        rows[outputs, inputs] = factor
        return self.to_weight(node, rows, weight.shape)

    def summands(self, node: ir.Node, weight: Sequence[int | None]) -> int:
        """K."""
        return weight[-1 if self.output_axis(node) == 0 else -2] or 0

    def sums(self, node: ir.Node, codes: IntArray, x: IntArray, largest: int) -> Float64Array:
        """`[..., C]` of `[..., K]`."""
        rows = self.to_rows(node, codes)
        kind = product_type(rows, largest)
        return (x.astype(kind) @ rows.astype(kind).T).astype(np.float64)

    def lower_qoperator(self, layer: InnerWeighted[FinalWeight], b: QOperatorBuilder) -> None:
        """QGemm, QLinearMatMul for a MatMul."""
        weight, zero_point = b.weight(layer)
        inputs: list[ir.Value | None] = [*b.quantized_inputs(layer), weight]
        inputs += [b.weight_scale(layer), b.spread(layer, zero_point)]
        if layer.op_type == "MatMul":
            value = b.emit("QLinearMatMul", [*inputs, *b.grid(layer.quantizer.rounded_to)], name=layer.name)
        else:
            attributes = {"transB": int(self.output_axis(layer.node) == 0)}
            inputs = [*inputs, b.bias(layer), *b.grid(layer.quantizer.rounded_to)]
            value = b.emit("QGemm", inputs, name=layer.name, attributes=attributes, domain=MICROSOFT)
        b.finish(layer, value)

    def lower_qoperator_last(self, layer: LastLayer[FinalWeight], b: QOperatorBuilder) -> None:
        """MatMulInteger, whose int32 leave as they are; it takes the weight as `[K, C]` only."""
        weight, zero_point = b.weight(layer, self.to_rows(layer.node, layer.weight.codes).T)
        codes, _, input_zero_point = b.quantized_inputs(layer)
        inputs: list[ir.Value | None] = [codes, weight, input_zero_point, zero_point]
        value = b.emit("MatMulInteger", inputs, name=layer.name, dtype=ir.DataType.INT32)
        b.finish_last(layer, b.add_bias(layer, value))

    def lower_integer(self, layer: InnerWeighted[FinalWeight], b: IntegerBuilder) -> None:
        """MatMulInteger."""
        b.finish_weighted(layer, self._sums(layer, b), "NCHW")

    def lower_integer_last(self, layer: LastLayer[FinalWeight], b: IntegerBuilder) -> None:
        """MatMulInteger."""
        b.finish_last(layer, self._sums(layer, b), "NCHW")

    def _sums(self, layer: Weighted[FinalWeight], b: IntegerBuilder) -> ir.Value:
        """int32 `[..., C]`, without the bias."""
        return b.multiply(layer.sources[0], self.to_rows(layer.node, layer.weight.codes), layer.weight.bits)
