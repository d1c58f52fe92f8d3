"""LayerNormalization along the last axis, in integers: see `qpipe.arith.layer_norm`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import INT32_MAX, CertificateRow
from qpipe.arith.exact import Exact
from qpipe.arith.layer_norm import (
    LONGEST_ROW,
    RowScale,
    fit_rows,
    largest_quotient,
    quotients,
    row_scale,
    scale_problem,
)
from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.arith.quantize import MAX_SHIFT, Requantization, requantization, requantize
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.nodes import constant_array, constant_input, float_attribute, input_value, int_attribute, static_shape
from qpipe.ops.base import Refusal
from qpipe.ops.factors import Factors, placed
from qpipe.ops.float_form import FloatForm, FunctionBody, IntegerForm
from qpipe.ops.forms import Operands
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import FUNCTION, NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction

# A sum, a square and its sum, a quotient; then gamma and beta. The root is the row's.
_WORK = NodeWork(FUNCTION + Work(multiply=2, add=4), backward=Work(multiply=5, add=6))
_SCALE = ("fraction", "count", "epsilon", "divisor", "limit")
_CHANNELS = ("sign", "bias", "low", "high", "multiplier", "addend")


class IntegerLayerNormalization(IntegerForm):
    """What a LayerNormalization is in a finalized file.

    Its constants, int32 but for both steps: the step of the codes that it reads (float32) and their zero point; the
    row's scale (see `RowScale`); sign, bias and the constants of a requantization of shift 22, each `[K]`, and what its
    sum is cut to; the result's zero point and step (float32).
    """

    op_types = ("IntegerLayerNormalization",)
    reads_wide = asks_wide = True
    parameter_names = ("scale", "zero_point", *_SCALE, *_CHANNELS, "least", "most", "result_zero_point", "step")

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It centres."""
        return True

    def work(self, node: ir.Node) -> NodeWork:
        """That of a LayerNormalization."""
        return _WORK

    def body(self, b: FunctionBody, x: ir.Value, constants: dict[str, ir.Value]) -> ir.Value:
        """Codes, quotients, requantization."""
        known = {name: Symbol(b, value, INT32) for name, value in constants.items()}
        stored = b.codes(x, constants["scale"]) + known["zero_point"]
        fraction, count, epsilon, divisor, limit = (known[name] for name in _SCALE)
        t = quotients(stored, RowScale(fraction, count, epsilon, divisor, limit))
        codes = requantize(t * known["sign"], _requantization(known)).astype(INT32)
        return b.real(codes - known["result_zero_point"], constants["step"])

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """What the requantization rounds, in its unit."""
        known, spec = self._known(layer), layer.quantizer.rounded_to
        t = quotients(sources[0] + layer.sources[0].grid.zero_point, _row_scale(known))
        cut = (t * known["sign"] + known["bias"]).clip(known["low"], known["high"])
        half = spec.zero_point * 2**MAX_SHIFT - 2 ** (MAX_SHIFT - 1)
        return Exact(cut * known["multiplier"] + (known["addend"] - half), spec.exponent - MAX_SHIFT)

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """All that it computes is within int32, and the constants are those of the grids beside it."""
        known, source, output = self._known(layer), layer.sources[0].grid, layer.quantizer.rounded_to
        scale, count = _row_scale(known), _count(layer.node)
        problems = []
        steps = [float(self.constant(layer.node, name)) for name in ("scale", "step")]
        if steps != [source.scale, output.scale]:
            problems.append(f"its steps are {steps}, expected {[source.scale, output.scale]}")
        zeros = [int(known[name]) for name in ("zero_point", "result_zero_point")]
        if zeros != [source.zero_point, output.zero_point]:
            problems.append(f"its zero points are {zeros}, expected {[source.zero_point, output.zero_point]}")
        problem = "the length of its rows is open, expected a fixed one"
        if count is not None:
            problem = scale_problem(source, count, scale) or self._channels_problem(layer, count)
        problems += [problem] if problem else []
        yield CertificateRow(
            layer.name,
            layer.op_type,
            f"-/{source.bits}",
            channels=count,
            largest_accumulator=None if problems else largest_quotient(scale),
            problems=tuple(problems),
        )

    def _channels_problem(self, layer: RequantizedLayer, count: int) -> str:
        """What of the requantization leaves int32, or is none of this grid; empty where it is right."""
        known, output = self._known(layer), layer.quantizer.rounded_to
        if any(known[name].shape != (count,) for name in _CHANNELS):
            return f"its constants have shapes {[list(known[name].shape) for name in _CHANNELS]}, expected [{count}]"
        if not np.isin(known["sign"], (-1, 0, 1)).all() or (known["multiplier"] < 1).any():
            return "its signs are no signs, or a multiplier is not positive"
        sums = [known["bias"] + sign * largest_quotient(_row_scale(known)) for sign in (-1, 1)]
        ends = [known[name] * known["multiplier"] + known["addend"] for name in ("low", "high")]
        largest = max(int(np.abs(values).max()) for values in (*sums, *ends))
        if (known["low"] > known["high"]).any() or largest > INT32_MAX:
            return f"its sums, up to {largest}, leave int32"
        cut = [int(known[name]) for name in ("least", "most")]
        return "" if cut == [*_limits(output)] else f"its sums are cut to {cut}, expected {[*_limits(output)]}"

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """Standard operators on int32."""
        source = layer.sources[0]
        codes = Symbol(b.steps(layer.name), b.codes(source), source.grid.dtype)
        b.finish(layer, self._codes(layer, codes).handle)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Standard operators on int32."""
        source = layer.sources[0]
        codes = b.symbol(b.codes(source), source.codes, "NCHW", source.grid.dtype)
        b.define_symbol(layer, self._codes(layer, codes), "NCHW")

    def _codes(self, layer: RequantizedLayer, codes: Symbol) -> Symbol:
        """uint8 codes of what the quantizer rounds to, its activation included."""
        known, spec = self._known(layer), layer.clipped_to
        t = quotients(codes.astype(INT32), _row_scale(known))
        found: Symbol = requantize(t * known["sign"], _requantization(known))
        if spec == layer.quantizer.rounded_to:
            return found
        return found.astype(INT32).clip(spec.stored_min, spec.stored_max).astype(UINT8)

    def _known(self, layer: RequantizedLayer) -> dict[str, IntArray]:
        """The integers of the node."""
        names = (name for name in self.parameter_names if name not in {"scale", "step"})
        return {name: self.constant(layer.node, name).astype(np.int64) for name in names}


class LayerNormalization(FloatForm):
    """Of a float graph, and of one that can be trained."""

    op_types = ("LayerNormalization",)
    reads_wide = asks_wide = True
    parameters = (Operands("LayerNormalization", 1, 2),)
    integer_form = IntegerLayerNormalization()
    is_scale_invariant = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Rows along the last axis, of a length that is known, and constants behind them."""
        shape, axis = static_shape(node.inputs[0]), int_attribute(node, "axis", -1)
        if shape is None or axis not in {-1, len(shape) - 1}:
            return Refusal(f"its axis is {axis}, expected the last one alone: Reshape before and behind it, {OR_LEAVE}")
        if shape[-1] is None:
            return Refusal(f"the length of its rows is open: export the model with a fixed last axis, {OR_LEAVE}")
        if not 1 < shape[-1] <= LONGEST_ROW:
            return Refusal(f"its rows have {shape[-1]} numbers, expected 2 to {LONGEST_ROW}, {OR_LEAVE}")
        arrays = [constant_array(value) for value in node.inputs[1:] if value is not None]
        if any(array is None or array.size != shape[-1] for array in arrays):
            return Refusal(f"its scale or bias is computed, or is not one number for each of a row, {OR_LEAVE}")
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            return Refusal(f"its mean or deviation is read as well: compute that apart, {OR_LEAVE}")
        return None

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It centres."""
        return True

    def scale_operand(self, node: ir.Node, factor: float) -> None:
        """epsilon is added to a mean of squares."""
        epsilon = float_attribute(node, "epsilon", 1e-5) * factor**2
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """New ones for each channel, which gamma and beta take; the operand's channels are weighed as they are."""
        book.fix(*operands)
        found = book.new(parameters_of(node)[0].size)
        for index in (1, 2):
            if input_value(node, index) is not None:
                book.take(node, index, found, -1)
        return placed(found, -1, operands[0].ndim)

    def work(self, node: ir.Node) -> NodeWork:
        """Two sums, a quotient, gamma and beta."""
        return _WORK

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(x [..., K], gamma [K], beta [K]) -> [..., K]`; by default the node's own."""
        epsilon = float_attribute(node, "epsilon", 1e-5)
        own = parameters_of(node)

        def run(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
            import torch
            from torch.nn import functional as F

            gamma, beta = given or (torch.from_numpy(array).to(x) for array in own)
            return F.layer_norm(x, (x.shape[-1],), gamma, beta, epsilon)

        return run

    def constants(self, layer: RequantizedLayer) -> dict[str, AnyArray]:
        """Fitted to the grids on both sides."""
        source, output, scale = layer.sources[0].grid, layer.quantizer.rounded_to, _scale_of(layer)
        gamma, beta = (array.astype(np.float64) for array in parameters_of(layer.node))
        affine, _ = fit_rows(gamma, beta, scale, output)
        found = requantization(affine.multiplier, affine.shift, output, affine.bias, common=MAX_SHIFT)
        least, most = _limits(output)
        zero, ones = np.zeros(len(gamma)), np.ones(len(gamma))
        integers = {
            "zero_point": source.zero_point,
            **{name: getattr(scale, name) for name in _SCALE},
            "sign": affine.sign,
            "bias": zero if found.bias is None else found.bias,
            "low": found.low,
            "high": found.high,
            "multiplier": found.multiplier,
            "addend": found.addend * ones,
            "least": least,
            "most": most,
            "result_zero_point": output.zero_point,
        }
        return {
            "scale": np.array(source.scale, np.float32),
            **{name: np.asarray(value).astype(np.int32) for name, value in integers.items()},
            "step": np.array(output.scale, np.float32),
        }


def normalized(layer: RequantizedLayer, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """What the finalized layer gives before it is rounded: float64, exact, without gradient.

    x: `[..., K]` on its grid; gamma, beta: float64 `[K]`.
    """
    import torch

    source, scale = layer.sources[0].grid, _scale_of(layer)
    affine, unit = fit_rows(gamma, beta, scale, layer.quantizer.rounded_to)
    codes = (x.double() / source.scale).round().clamp(source.qmin, source.qmax).to(torch.int64)
    t = quotients(codes + source.zero_point, scale).double()
    return torch.ldexp((t * affine.sign + affine.bias) * affine.multiplier, affine.exponent + unit)


def parameters_of(node: ir.Node) -> tuple[AnyArray, AnyArray]:
    """gamma and beta, float32 `[K]`."""
    gamma, beta = constant_input(node, 1), constant_input(node, 2)
    assert gamma is not None
    gamma = gamma.reshape(-1).astype(np.float32)
    return gamma, np.zeros_like(gamma) if beta is None else beta.reshape(-1).astype(np.float32)


def _scale_of(layer: RequantizedLayer) -> RowScale:
    epsilon = float_attribute(layer.node, "epsilon", 1e-5)
    return row_scale(layer.sources[0].grid, _count(layer.node) or 1, epsilon)


def _row_scale(known: dict[str, IntArray]) -> RowScale:
    return RowScale(*(int(known[name]) for name in _SCALE))


def _limits(output: QuantSpec) -> tuple[int, int]:
    """What the sum of a requantization of shift 22 is cut to."""
    step = 1 << MAX_SHIFT
    return (output.stored_min - 1) * step + 1, output.stored_max * step - 1


def _requantization(known: dict[str, Any]) -> Requantization:
    """Of arrays, or of a graph's values, which have the same operators."""
    least, most = (known[n] if isinstance(known[n], Symbol) else int(known[n]) for n in ("least", "most"))
    bias, low, high, multiplier, addend = (known[name] for name in _CHANNELS[1:])
    return Requantization(bias, low, high, multiplier, addend, (least, most), MAX_SHIFT)


def _count(node: ir.Node) -> int | None:
    shape = static_shape(node.inputs[0])
    return None if not shape else shape[-1]
