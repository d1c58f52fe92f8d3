"""The exact convolutions against their definition, and the float simulation against them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith.mls.accumulator import Accumulator, Convolution
from qpipe.arith.mls.convolutions import conv_a_e, conv_w_a, conv_w_e
from qpipe.arith.mls.exact import Operand, Sums, shifted, summed
from qpipe.arith.mls.formats import ElementFormat, MlsFormat
from qpipe.arith.mls.quantize import MlsTensor, quantize
from support.mls import ELEMENTS, GROUP_FORMATS


@dataclass(frozen=True)
class Layer:
    """Quantized W, A and E of a convolution."""

    convolution: Convolution
    w: MlsTensor
    a: MlsTensor
    e: MlsTensor
    formats: tuple[MlsFormat, MlsFormat, MlsFormat]

    def operands(self) -> tuple[Operand, Operand, Operand]:
        w, a, e = (Operand.of(*pair) for pair in zip((self.w, self.a, self.e), self.formats, strict=True))
        return w, a, e

    def exact(self) -> tuple[Sums, Sums, Sums]:
        w, a, e = self.operands()
        return (
            conv_w_a(w, a, self.convolution),
            conv_w_e(w, e, self.convolution, self.a.values.shape),
            conv_a_e(a, e, self.convolution, self.w.values.shape),
        )


FORMATS = st.builds(
    MlsFormat,
    st.sampled_from([element for element in ELEMENTS if element.exponent <= 3]),
    st.sampled_from(["none", "n", "c", "nc"]),
    st.sampled_from(GROUP_FORMATS),
)


@dataclass(frozen=True)
class Case:
    """What a layer is made from; shapes and formats: of W, A and E."""

    convolution: Convolution
    shapes: tuple[tuple[int, ...], ...]
    formats: tuple[MlsFormat, MlsFormat, MlsFormat]
    seed: int

    def layer(self) -> Layer:
        rng = np.random.default_rng(self.seed)
        quantized = []
        for shape, fmt, groups in zip(self.shapes, self.formats, (self.convolution.groups, 1, 1), strict=True):
            sizes = np.exp(rng.normal(0, 2, (*shape[:2], *[1] * len(shape[2:]))))
            x = torch.from_numpy((rng.normal(0, 1, shape) * sizes).astype(np.float32))
            quantized.append(quantize(x, fmt, None, groups=groups))
        return Layer(self.convolution, *quantized, self.formats)


@st.composite
def cases(draw: st.DrawFn, formats: st.SearchStrategy[MlsFormat] = FORMATS, most: int = 6) -> Case:
    """Convolutions with 0 to 2 spatial axes; pads are the same before and behind, as torch has them."""
    dims, groups = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    axis = st.tuples(*(st.integers(1, 3),) * 3, st.integers(0, 2), st.integers(0, most - 1))
    kernel, strides, dilations, pads, more = zip(*(draw(axis) for _ in range(dims)), strict=True) if dims else ((),) * 5
    spatial = tuple(
        max(d * (k - 1) + 1 - 2 * p, 1) + extra for k, d, p, extra in zip(kernel, dilations, pads, more, strict=True)
    )
    convolution = Convolution(strides, tuple((p, p) for p in pads), dilations, groups)
    n, ci, co = (draw(st.integers(1, 3)) for _ in range(3))
    shapes = (
        (co * groups, ci, *kernel),
        (n, ci * groups, *spatial),
        (n, co * groups, *convolution.output(spatial, kernel)),
    )
    return Case(convolution, shapes, draw(st.tuples(formats, formats, formats)), draw(st.integers(0, 2**32 - 1)))


def fractions(tensor: MlsTensor) -> np.ndarray:
    scale = Fraction(tensor.scale.item())
    return np.vectorize(lambda x: Fraction(float(x)) * scale, otypes=[object])(tensor.values.numpy())


def by_definition(layer: Layer) -> tuple[dict[Any, Fraction], dict[Any, Fraction], dict[Any, Fraction]]:
    """Equation 5 and its two gradients, one product after the other, in rational numbers."""
    c, w, a, e = layer.convolution, fractions(layer.w), fractions(layer.a), fractions(layer.e)
    found: Any = tuple(defaultdict(Fraction) for _ in range(3))
    co_within, ci_within = w.shape[0] // c.groups, w.shape[1]
    for n, co, *position in np.ndindex(e.shape):
        for ci, *tap in np.ndindex(w.shape[1:]):
            read = [
                p * s + t * d - pad[0]
                for p, t, s, d, pad in zip(position, tap, c.strides, c.dilations, c.pads, strict=True)
            ]
            if any(not 0 <= r < size for r, size in zip(read, a.shape[2:], strict=True)):
                continue
            at_w, at_e = (co, ci, *tap), (n, co, *position)
            at_a = (n, co // co_within * ci_within + ci, *read)
            found[0][at_e] += w[at_w] * a[at_a]
            found[1][at_a] += w[at_w] * e[at_e]
            found[2][at_w] += a[at_a] * e[at_e]
    return found


@settings(max_examples=60)
@given(case=cases(most=3))
def test_the_three_products_are_their_definition(case: Case) -> None:
    layer = case.layer()
    shapes = (layer.e.values.shape, layer.a.values.shape, layer.w.values.shape)
    for sums, expected, shape in zip(layer.exact(), by_definition(layer), shapes, strict=True):
        found = sums.fractions()
        assert found.shape == shape
        assert [place for place in np.ndindex(found.shape) if found[place] != expected.get(place, 0)] == []
        assert (sums.magnitudes >= abs(sums.integers)).all()


def test_pads_may_differ_before_and_behind() -> None:
    fmt = MlsFormat(ElementFormat(2, 1))
    rng = torch.Generator().manual_seed(0)
    convolution = Convolution((2, 1), ((0, 2), (1, 0)), (1, 2))
    shapes = ((3, 2, 3, 2), (2, 2, 5, 4), (2, 3, *convolution.output((5, 4), (3, 2))))
    w, a, e = (quantize(torch.randn(shape, generator=rng), fmt, None) for shape in shapes)
    layer = Layer(convolution, w, a, e, (fmt, fmt, fmt))
    for sums, expected in zip(layer.exact(), by_definition(layer), strict=True):
        assert all(x == expected.get(place, 0) for place, x in np.ndenumerate(sums.fractions()))


def simulated(layer: Layer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As training has it: float32, the tensors' scales folded into the weights, or into their gradient."""
    c, w, a, e = layer.convolution, layer.w, layer.a, layer.e
    if not c.strides:  # a 1x1 convolution on one pixel
        one = Convolution((1, 1), ((0, 0), (0, 0)), (1, 1), c.groups)
        w, a, e = (replace(t, values=t.values[..., None, None]) for t in (w, a, e))
        flat = simulated(Layer(one, w, a, e, layer.formats))
        return tuple(x.flatten(1) for x in flat)  # type: ignore[return-value]
    backward = torch.ops.aten.convolution_backward
    forward = torch.ops.aten.convolution
    pads, dims = [before for before, _ in c.pads], len(c.strides)
    rest = (list(c.strides), pads, list(c.dilations), False, [0] * dims, c.groups)
    z = forward(a.values, w.values * (w.scale * a.scale), None, *rest)
    grad_a, _, _ = backward(e.values, a.values, w.values * (w.scale * e.scale), None, *rest, (True, False, False))
    _, grad_w, _ = backward(e.values, a.values, w.values, None, *rest, (False, True, False))
    return z, grad_a, grad_w * (a.scale * e.scale)


@settings(max_examples=150)
@given(case=cases())
def test_the_float_simulation_is_as_near_as_rounding_allows(case: Case) -> None:
    layer = case.layer()
    for sums, found in zip(layer.exact(), simulated(layer), strict=True):
        errors, exact = sums.float32_errors(), sums.fractions()
        floats = found.numpy().astype(np.float64)
        assert [p for p in np.ndindex(exact.shape) if abs(Fraction(floats[p]) - exact[p]) > errors[p]] == []


POWERS = FORMATS.map(lambda fmt: replace(fmt, power_of_two=True))


@settings(max_examples=150)
@given(case=cases(POWERS))
def test_the_float_simulation_is_exact_where_float32_holds_the_sums(case: Case) -> None:
    layer = case.layer()
    for sums, found in zip(layer.exact(), simulated(layer), strict=True):
        held, exact = sums.held_by_float32(), sums.fractions()
        floats = found.numpy().astype(np.float64)
        assert [p for p in np.ndindex(exact.shape) if held[p] and Fraction(floats[p]) != exact[p]] == []


@pytest.mark.parametrize(
    ("text", "grouping", "all_held"), [("0,4", "none", True), ("2,1", "nc", True), ("2,4", "nc", False)]
)
def test_what_float32_holds(text: str, grouping: Any, all_held: bool) -> None:
    """Of a small layer whose channels differ by some 2**5: all sums of ⟨0, 4⟩ and ⟨2, 1⟩, not all of ⟨2, 4⟩.

    Where it holds all, and the scales are powers of two, the simulation is exact; else it is not.
    """
    rng = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng) * torch.randn(*shape[:2], 1, 1, generator=rng).exp()

    tensors = tensor(8, 8, 3, 3), tensor(2, 8, 6, 6), tensor(2, 8, 6, 6)
    convolution = Convolution((1, 1), ((1, 1), (1, 1)), (1, 1))
    for power_of_two in (True, False):
        fmt = MlsFormat(ElementFormat.parse(text), grouping, power_of_two=power_of_two)
        w, a, e = (quantize(x, fmt, None) for x in tensors)
        layer = Layer(convolution, w, a, e, (fmt, fmt, fmt))
        held, equal = [], []
        for sums, found in zip(layer.exact(), simulated(layer), strict=True):
            held.extend(sums.held_by_float32().flat)
            pairs = zip(found.double().flatten().tolist(), sums.fractions().flat, strict=True)
            equal.extend(Fraction(x) == y for x, y in pairs)
        assert all(held) == all_held
        assert all(equal) == (power_of_two and all_held)


@pytest.mark.parametrize("shift", [2, 5])
@pytest.mark.parametrize("mantissas", [0, 1, 2])
def test_a_product_of_scales_is_shifts_and_one_addition(mantissas: int, shift: int) -> None:
    """Equation 8: 1, 1.5 and 2.25, times a power of two."""
    sums = np.asarray([0, 1, -7, 10**30], object)
    found = shifted(sums, np.asarray(mantissas, object), np.asarray(shift, object))
    assert found.tolist() == [x * Fraction(3, 2) ** mantissas * 2**shift for x in sums]


def test_a_sum_that_is_wider_than_derived_is_refused() -> None:
    fmt = MlsFormat(ElementFormat(0, 1), "none")
    operand = Operand.of(quantize(torch.ones(1, 4), fmt, None), fmt)
    for terms, partial_sums in ((3, 1), (4, 1)):
        width = Accumulator("Conv(W, A)", 1, terms, partial_sums, 0)
        if terms == 4:
            assert summed(lambda one, other: one * other, operand, operand, width, 1).integers == 4
        else:
            with pytest.raises(OverflowError, match=r"Conv\(W, A\) within a group: a sum of 4 bits, expected 3"):
                summed(lambda one, other: one * other, operand, operand, width, 1)
