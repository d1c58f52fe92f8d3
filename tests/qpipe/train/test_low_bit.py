"""A product on low-bit operands: what is quantized, how often, in which layout, and what the gradients are."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.mls.accumulator import Convolution
from qpipe.arith.mls.convolutions import conv_a_e, conv_w_a, conv_w_e
from qpipe.arith.mls.exact import Operand
from qpipe.arith.mls.formats import ElementFormat, MlsFormat
from qpipe.arith.mls.generators import Role
from qpipe.arith.mls.quantize import MlsTensor, quantize
from qpipe.ops import TorchProduct, product_of
from qpipe.train.low_bit import LowBitProduct, as_convolution, as_the_node
from qpipe.train.straight_through import channels_last, layout_of
from support.networks import float_model

FORMAT = MlsFormat(ElementFormat(2, 1))
SUMS = 1e-5
"""Relative to the largest number: float32 sums of some hundred products, beside float64's."""

KINDS: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "Conv": ((4, 6, 6), (8, 4, 3, 3), "y = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(x, w, b)"),
    "grouped Conv": ((4, 6, 6), (8, 2, 3, 3), "y = Conv<group=2>(x, w, b)"),
    "depthwise Conv": ((8, 6, 6), (8, 1, 3, 3), "y = Conv<group=8, pads=[1, 1, 1, 1]>(x, w, b)"),
    "Conv of one dimension": ((4, 9), (8, 4, 3), "y = Conv<pads=[1, 1]>(x, w, b)"),
    "Gemm, transposed": ((5,), (8, 5), "y = Gemm<transB=1>(x, w, b)"),
    "Gemm": ((5,), (5, 8), "y = Gemm(x, w, b)"),
    "MatMul of sequences": ((3, 5), (5, 8), "y = MatMul(x, w)"),
}
"""Shapes of an input without the batch, and of the weight; eight output channels."""
WINDOWS: dict[str, Convolution] = {
    "Conv": Convolution((2, 2), ((1, 1), (1, 1)), (1, 1)),
    "grouped Conv": Convolution((1, 1), ((0, 0), (0, 0)), (1, 1), 2),
    "depthwise Conv": Convolution((1, 1), ((1, 1), (1, 1)), (1, 1), 8),
    "Conv of one dimension": Convolution((1,), ((1, 1),), (1,)),
    "MatMul of sequences": Convolution((1,), ((0, 0),), (1,)),
}
"""How they move, as the exact convolutions are told; a Gemm's does not."""
kinds = pytest.mark.parametrize("kind", KINDS)


def node_of(kind: str) -> ir.Node:
    shape, weight, text = KINDS[kind]
    bias = {"b": np.zeros(8, np.float32)} if "b)" in text else {}
    return next(iter(float_model("net", shape, [text], w=np.zeros(weight, np.float32), **bias).graph))


def operands(kind: str, batch: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    shape, weight, text = KINDS[kind]
    x, w, b = (torch.randn(sizes, generator=generator) for sizes in ((batch, *shape), weight, (8,)))
    return x.requires_grad_(), w.requires_grad_(), b.requires_grad_() if "b)" in text else None


class Recorder:
    """Quantizes to nearest, and keeps what it was asked and what it gave."""

    def __init__(self, fmt: MlsFormat = FORMAT) -> None:
        self.fmt = fmt
        self.tensors: dict[Role, MlsTensor] = {}
        self.asked: list[tuple[Role, torch.Tensor]] = []
        self.given: dict[Role, torch.Tensor] = {}
        self.forwards = 0

    def __call__(self, x: torch.Tensor, role: Role) -> MlsTensor:
        found = self.tensors[role] = quantize(x, self.fmt, None)
        self.asked.append((role, x.detach().clone()))
        self.given[role] = found.values * found.scale
        return found

    def begin(self) -> Callable[[torch.Tensor, Role], MlsTensor]:
        self.forwards += 1
        return self


def low_bit(node: ir.Node, fmt: MlsFormat = FORMAT) -> tuple[LowBitProduct, Recorder]:
    recorder = Recorder(fmt)
    return LowBitProduct(product_of(node).torch(node), node, recorder.begin), recorder


@kinds
@given(seed=st.integers(0, 1000))
def test_it_is_the_float_product_of_the_quantized_operands(kind: str, seed: int) -> None:
    """Forward and both gradients, in float64 by torch's own; the error that goes back is the quantized one."""
    node = node_of(kind)
    product, recorder = low_bit(node)
    x, w, b = operands(kind, seed=seed)
    y = product(x, w, b)
    error = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed + 1))
    y.backward(error)

    a, kernel, e = (as_the_node(node, recorder.given[role], role) for role in ("activation", "weight", "error"))
    a, kernel = a.double().requires_grad_(), kernel.double().requires_grad_()
    expected = product_of(node).torch(node)(a, kernel, None if b is None else b.detach().double())
    expected.backward(e.double())
    for found, reference in ((y, expected), (x.grad, a.grad), (w.grad, kernel.grad)):
        assert found is not None
        assert reference is not None
        atol = SUMS * float(reference.detach().abs().max())
        torch.testing.assert_close(found.double(), reference, rtol=0, atol=atol)


@kinds
@given(seed=st.integers(0, 1000))
def test_it_is_the_oracles_product_where_float32_holds_the_sums(kind: str, seed: int) -> None:
    """In big integers, of the very operands; tensors' scales are powers of two. Elsewhere it is as near as is said."""
    node, window, fmt = node_of(kind), WINDOWS.get(kind, Convolution()), replace(FORMAT, power_of_two=True)
    product, recorder = low_bit(node, fmt)
    x, w, _ = operands(kind, seed=seed)
    y = product(x, w)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(seed + 1)))

    # A MatMul's weight is a kernel of one position.
    kernel = recorder.tensors["weight"]
    axes = (*kernel.values.shape, *[1] * (len(window.strides) + 2 - kernel.values.dim()))
    kernel = replace(
        kernel, values=kernel.values.view(axes), group_scale=kernel.group_scale.view(*axes[:2], *[1] * (len(axes) - 2))
    )
    weight, a, e = (
        Operand.of(tensor, fmt) for tensor in (kernel, recorder.tensors["activation"], recorder.tensors["error"])
    )
    found: tuple[tuple[torch.Tensor | None, Role], ...] = (
        (y.detach(), "error"),
        (x.grad, "activation"),
        (w.grad, "weight"),
    )
    oracle = (
        conv_w_a(weight, a, window),
        conv_w_e(weight, e, window, a.elements.shape),
        conv_a_e(a, e, window, weight.elements.shape),
    )
    for (tensor, role), sums in zip(found, oracle, strict=True):
        assert tensor is not None
        held, exact, errors = sums.held_by_float32().flat, sums.fractions().flat, sums.float32_errors().flat
        floats = map(Fraction, as_convolution(node, tensor, role).flatten().tolist())
        rows = list(zip(floats, exact, held, errors, strict=True))
        assert any(is_held for *_, is_held, _ in rows)
        assert [row for row in rows if abs(row[0] - row[1]) > (0 if row[2] else row[3])] == []


@kinds
def test_each_operand_is_quantized_once_with_its_groups_first(kind: str) -> None:
    node = node_of(kind)
    product, recorder = low_bit(node)
    x, w, b = operands(kind)
    y = product(x, w, b)
    y.backward(torch.randn(y.shape))
    assert [role for role, _ in recorder.asked] == ["activation", "weight", "error"]
    assert recorder.forwards == 1
    shapes = {role: tuple(tensor.shape) for role, tensor in recorder.asked}
    channels = KINDS[kind][0][-1 if "M" in kind or "Gemm" in kind else 0]
    assert shapes["activation"][:2] == (3, channels)
    assert shapes["weight"][:2] == (8, channels // (2 if "grouped" in kind else 8 if "depthwise" in kind else 1))
    assert shapes["error"][:2] == (3, 8)


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "Conv of one dimension"])
def test_a_biass_gradient_is_the_sum_of_the_error_as_it_came(kind: str) -> None:
    product, _ = low_bit(node_of(kind))
    x, w, b = operands(kind)
    y = product(x, w, b)
    error = torch.randn(y.shape)
    y.backward(error)
    assert b is not None
    torch.testing.assert_close(b.grad, error.transpose(0, 1).flatten(1).sum(1))


@pytest.mark.parametrize("kind", ["Gemm", "MatMul of sequences", "Conv"])
def test_the_layouts_of_an_operand_are_inverses(kind: str) -> None:
    node = node_of(kind)
    x, w, _ = operands(kind)
    roles: list[tuple[torch.Tensor, Role]] = [(x, "activation"), (w, "weight")]
    for tensor, role in roles:
        assert torch.equal(as_the_node(node, as_convolution(node, tensor, role), role), tensor)


def test_what_it_keeps_are_the_quantized_operands() -> None:
    """So that the memory that a step takes is the float step's."""
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    product, recorder = low_bit(node_of("Conv"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        product(*operands("Conv"))
    large = [tensor for tensor in kept if tensor.ndim]
    scales = [float(tensor) for tensor in kept if not tensor.ndim]
    assert len(large) == len(scales) == 2
    for tensor, scale, role in zip(large, scales, ("activation", "weight"), strict=True):
        torch.testing.assert_close(tensor * scale, recorder.given[role], rtol=0, atol=0)


def test_an_error_gets_the_layout_of_the_activation() -> None:
    """A native kernel of two layouts takes many times as long."""
    product, recorder = low_bit(node_of("Conv"))
    x, w, b = operands("Conv")
    y = product(channels_last(x), w, b)
    assert layout_of(y) is torch.channels_last
    y.backward(torch.randn(y.shape).contiguous())
    assert layout_of(recorder.given["error"]) is torch.channels_last


def test_no_gradient_is_computed_that_nobody_asks_for() -> None:
    """The input of a network needs none, nor does a bias that is none."""
    node = node_of("Conv")
    asked: list[str] = []
    whole = product_of(node).torch(node)

    def watched(name: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            asked.append(name)
            return getattr(whole, name)(*arguments)

        return run

    op = TorchProduct(whole.forward, *map(watched, ("grad_input", "grad_weight", "gradients")))
    product = LowBitProduct(op, node, Recorder().begin)
    x, w, b = operands("Conv")
    for inputs, expected in (
        ((x.detach(), w), "grad_weight"),
        ((x, w.detach()), "grad_input"),
        ((x, w, b), "gradients"),
    ):
        asked.clear()
        product(*inputs).sum().backward()  # type: ignore[no-untyped-call]
        assert asked == [expected]
