"""The gradients that a product's op gives are autograd's own."""

from __future__ import annotations

import onnx_ir as ir
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from qpipe.ops import product_of

SIDE = st.integers(1, 6)


def check(node: ir.Node, x: torch.Tensor, w: torch.Tensor) -> None:
    """Whole numbers in float64: the sums are exact, whatever their order."""
    product = product_of(node).torch(node)
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    y = product(x, w)
    g = torch.randint(-4, 5, y.shape).double()
    to_input, to_weight = torch.autograd.grad(y, (x, w), g)
    torch.testing.assert_close(product.grad_input(x.shape, w.detach(), g), to_input, rtol=0, atol=0)
    torch.testing.assert_close(product.grad_weight(x.detach(), w.shape, g), to_weight, rtol=0, atol=0)
    both = product.gradients(x.detach(), w.detach(), g)
    torch.testing.assert_close(both, (to_input, to_weight), rtol=0, atol=0)


@given(data=st.data(), dims=st.integers(1, 2), groups=st.integers(1, 3), fan=st.tuples(SIDE, SIDE))
def test_conv(data: st.DataObject, dims: int, groups: int, fan: tuple[int, int]) -> None:
    """Any stride, dilation, group, and pads that differ at begin and end."""
    draw = data.draw
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    attributes = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in kernel],
        "dilations": [draw(st.integers(1, 2)) for _ in kernel],
        "pads": [draw(st.integers(0, 2)) for _ in range(2 * dims)],
        "group": groups,
    }
    sizes = [draw(st.integers(1, 9)) for _ in kernel]
    pads = attributes["pads"]
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, attributes["dilations"], strict=True)]
    assume(all(s + pads[i] + pads[dims + i] >= extents[i] for i, s in enumerate(sizes)))
    x = torch.randint(-4, 5, (2, groups * fan[0], *sizes))
    check(ir.node("Conv", [None, None], attributes), x, torch.randint(-4, 5, (groups * fan[1], fan[0], *kernel)))


@given(lead=st.lists(SIDE, min_size=1, max_size=3), k=SIDE, c=SIDE, transposed=st.booleans())
def test_matrices(lead: list[int], k: int, c: int, transposed: bool) -> None:
    x, w = torch.randint(-4, 5, (*lead, k)), torch.randint(-4, 5, (k, c))
    check(ir.node("MatMul", [None, ir.val("w", const_value=ir.tensor(w.numpy()))]), x, w)
    check(ir.node("Gemm", [None, None], {"transB": int(transposed)}), x[0:1].reshape(-1, k), w.T if transposed else w)
