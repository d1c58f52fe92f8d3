"""Every op's windows and attributes by ONNX's own text: what the oracle and the executor make of them.

The text is written here in plain loops; where it is one line of numpy, `onnx.reference` stands in. Both lowerings are
compared with the oracle in `test_integer.py`. All grids have steps of 1, so that a value is its integer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from qpipe.ops import OPS
from support.networks import parse
from support.one_node import GRID, agree, drawn, node_of


class Slide:
    """A window over an image, by the text of Conv and the pools: explicit pads, and `ceil_mode`."""

    def __init__(self, draw: Callable[[Any], Any], dims: int, *, dilated: bool, ceil: bool) -> None:
        self.sizes = [draw(st.integers(1, 7)) for _ in range(dims)]
        self.kernel = [draw(st.integers(1, 4)) for _ in range(dims)]
        self.strides = [draw(st.integers(1, 3)) for _ in range(dims)]
        self.dilations = [draw(st.integers(1, 3)) if dilated else 1 for _ in range(dims)]
        self.pads = [draw(st.integers(0, k - 1)) for k in self.kernel * 2]
        self.ceil_mode = draw(st.integers(0, 1)) if ceil else 0
        assume(all(count > 0 for count in self.counts))

    @property
    def counts(self) -> list[int]:
        """`floor((in + pads - ((kernel - 1) * dilation + 1)) / stride + 1)`, or ceil; but a window that would begin
        in the padding behind the image is none."""
        found = []
        for i, size in enumerate(self.sizes):
            begin, end = self.pads[i], self.pads[len(self.sizes) + i]
            span = size + begin + end - ((self.kernel[i] - 1) * self.dilations[i] + 1)
            count = Fraction(span, self.strides[i]) + 1
            whole = math.ceil(count) if self.ceil_mode else math.floor(count)
            found.append(whole - 1 if self.ceil_mode and (whole - 1) * self.strides[i] >= size + begin else whole)
        return found

    def text(self) -> str:
        parts = {"kernel_shape": self.kernel, "strides": self.strides, "pads": self.pads}
        parts |= {"dilations": self.dilations} if any(d > 1 for d in self.dilations) else {}
        parts |= {"ceil_mode": self.ceil_mode} if self.ceil_mode else {}
        return ", ".join(f"{name}={value}" for name, value in parts.items())

    def windows(self):
        """Each position, and the pixel that each of its taps sees; those outside of the image too."""
        for position in itertools.product(*map(range, self.counts)):
            yield position, [
                tuple(p * s - self.pads[i] + t * d for i, (p, s, t, d) in
                      enumerate(zip(position, self.strides, taps, self.dilations, strict=True)))
                for taps in itertools.product(*map(range, self.kernel))
            ]  # fmt: skip

    def on_image(self, pixel: tuple[int, ...]) -> bool:
        return all(0 <= p < size for p, size in zip(pixel, self.sizes, strict=True))

    def on_pads(self, pixel: tuple[int, ...]) -> bool:
        dims = len(self.sizes)
        return all(-self.pads[i] <= p < self.sizes[i] + self.pads[dims + i] for i, p in enumerate(pixel))


def half_even(value: Fraction) -> int:
    return round(value)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 3))
def test_max_pool(data: st.DataObject, dims: int) -> None:
    slide = Slide(data.draw, dims, dilated=True, ceil=True)
    x = drawn(data.draw, 1, 2, *slide.sizes)
    expected = np.zeros((1, 2, *slide.counts), np.int64)
    for (position, pixels), c in itertools.product(slide.windows(), range(2)):
        seen = [int(x[(0, c, *pixel)]) for pixel in pixels if slide.on_image(pixel)]
        expected[(0, c, *position)] = max(seen, default=GRID.qmin)
    agree(expected, node_of(f"MaxPool<{slide.text()}>(x)", x.shape), x)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 3), st.booleans())
def test_average_pool(data: st.DataObject, dims: int, include: bool) -> None:
    """The mean of the pixels of the image and, with count_include_pad, of the pads; what hangs over counts never."""
    slide = Slide(data.draw, dims, dilated=False, ceil=True)
    # A window that is larger than its image with the pads is refused, and torch has none.
    spans = zip(slide.kernel, slide.sizes, slide.pads[:dims], slide.pads[dims:], strict=True)
    assume(all(kernel <= size + begin + end for kernel, size, begin, end in spans))
    x = drawn(data.draw, 1, 2, *slide.sizes)
    expected = np.zeros((1, 2, *slide.counts), np.int64)
    for (position, pixels), c in itertools.product(slide.windows(), range(2)):
        counted = [pixel for pixel in pixels if (slide.on_pads if include else slide.on_image)(pixel)]
        assume(counted)
        total = sum(int(x[(0, c, *pixel)]) for pixel in counted if slide.on_image(pixel))
        expected[(0, c, *position)] = half_even(Fraction(total, len(counted)))
    agree(expected, node_of(f"AveragePool<{slide.text()}, count_include_pad={include:d}>(x)", x.shape), x)


def test_a_window_that_only_its_pads_fill() -> None:
    """A volume that is smaller than the window without its pads, for which torch has no pool."""
    x = np.array([4, 10]).reshape(1, 2, 1, 1, 1)
    node = node_of("AveragePool<kernel_shape=[1, 2, 1], pads=[0, 1, 0, 0, 1, 0]>(x)", x.shape)
    agree(np.repeat(x, 2, axis=3), node, x)


@settings(max_examples=40)
@given(st.data(), st.integers(1, 3))
def test_the_mean_of_all(data: st.DataObject, dims: int) -> None:
    x = drawn(data.draw, 2, 3, *(data.draw(st.integers(1, 6)) for _ in range(dims)))
    count = math.prod(x.shape[2:])
    sums = x.reshape(2, 3, -1).sum(axis=2).tolist()
    expected = np.array([[half_even(Fraction(s, count)) for s in row] for row in sums]).reshape(2, 3, *[1] * dims)
    agree(expected, node_of("GlobalAveragePool(x)", x.shape), x)
    agree(expected, node_of("ReduceMean(x, axes)", x.shape, axes=np.arange(2, 2 + dims)), x)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_conv(data: st.DataObject, dims: int, groups: int) -> None:
    """`y[o] = sum over the group's channels and taps of x w`, zeros around the image."""
    slide = Slide(data.draw, dims, dilated=True, ceil=False)
    fan_in, fan_out = (data.draw(st.integers(1, 2)) for _ in range(2))
    x = drawn(data.draw, 1, groups * fan_in, *slide.sizes)
    w = np.random.default_rng(0).integers(-9, 10, (groups * fan_out, fan_in, *slide.kernel))
    expected = np.zeros((1, len(w), *slide.counts), np.int64)
    taps = list(itertools.product(*map(range, slide.kernel)))
    for (position, pixels), o in itertools.product(slide.windows(), range(len(w))):
        first = o // fan_out * fan_in
        expected[(0, o, *position)] = sum(
            int(x[(0, first + c, *pixel)]) * int(w[(o, c, *tap)])
            for c in range(fan_in) for pixel, tap in zip(pixels, taps, strict=True) if slide.on_image(pixel)
        )  # fmt: skip
    node = node_of(f"Conv<{slide.text()}, group={groups}>(x, w)", x.shape, w=w.astype(np.float32))
    product = OPS["Conv"]
    np.testing.assert_array_equal(product.sums(node, w, x, 128), expected)
    found = product.torch(node)(torch.from_numpy(x).double(), torch.from_numpy(w).double())
    np.testing.assert_array_equal(found.numpy(), expected)


@settings(max_examples=40)
@given(st.data(), st.booleans())
def test_gemm_and_matmul(data: st.DataObject, transposed: bool) -> None:
    rows, k, c = (data.draw(st.integers(1, 5)) for _ in range(3))
    x, w = drawn(data.draw, rows, k), np.random.default_rng(0).integers(-9, 10, (k, c))
    expected = np.array([[sum(int(a) * int(b) for a, b in zip(r, col, strict=True)) for col in w.T] for r in x])
    stored = np.ascontiguousarray(w.T) if transposed else w
    for text, weight in ((f"Gemm<transB={transposed:d}>(x, w)", stored), ("MatMul(x, w)", w)):
        node = node_of(text, x.shape, w=weight.astype(np.float32))
        op = OPS[node.op_type]
        np.testing.assert_array_equal(op.sums(node, weight, x, 128), expected)
        found = op.torch(node)(torch.from_numpy(x).double(), torch.from_numpy(weight).double())
        np.testing.assert_array_equal(found.numpy(), expected)
    lead = x.reshape(1, rows, k)
    np.testing.assert_array_equal(OPS["MatMul"].sums(node, w, lead, 128), expected[None])


def referenced(text: str, *inputs: np.ndarray, **constants: Any) -> np.ndarray:
    """`onnx.reference`, of ops that it computes by one function of numpy."""
    names = ["x", "x1", "x2"][: len(inputs)]
    given_ = ", ".join(f"float[{','.join(map(str, x.shape))}] {n}" for n, x in zip(names, inputs, strict=True))
    proto = parse(f"({given_}) => (float[] y) {{ y = {text} }}", **constants)
    feeds = {name: x.astype(np.float32) for name, x in zip(names, inputs, strict=True)}
    (y,) = ReferenceEvaluator(proto).run(None, feeds)
    return y.astype(np.int64)


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
BOUND = st.one_of(st.integers(-7, 7), st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]))


@settings(max_examples=100)
@given(st.data(), SHAPES)
def test_slice(data: st.DataObject, shape: list[int]) -> None:
    """The text: negative bounds count from the end; then a start is clamped to [0, size], backwards to [0, size - 1],
    an end to [0, size], backwards to [-1, size - 1]."""
    x = drawn(data.draw, *shape)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    starts, ends = ([data.draw(BOUND) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([1, 2, 3, -1, -2, -3])) for _ in axes]
    expected = x
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        start, end = (bound + size if bound < 0 else bound for bound in (start, end))
        low, high = (0, size) if step > 0 else (0, size - 1)
        start = min(max(start, low), high)
        end = min(max(end, 0), size) if step > 0 else min(max(end, -1), size - 1)
        expected = expected.take(range(start, end, step), axis)
    signed = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    arrays = {n: np.array(v) for n, v in (("s", starts), ("e", ends), ("a", signed), ("t", steps))}
    agree(expected, node_of("Slice(x, s, e, a, t)", tuple(shape), **arrays), x)


@settings(max_examples=60)
@given(st.data(), SHAPES)
def test_pad(data: st.DataObject, shape: list[int]) -> None:
    """Zeros before and behind; a negative number takes away."""
    x = drawn(data.draw, *shape)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    pads = [data.draw(st.integers(-1, 2)) for _ in axes * 2]
    expected = x
    for i, axis in enumerate(axes):
        begin, end = pads[i], pads[len(axes) + i]
        assume(expected.shape[axis] + min(begin, 0) + min(end, 0) >= 0)
        places = range(-begin, expected.shape[axis] + end)
        lines = [
            expected.take([p], axis) if 0 <= p < expected.shape[axis] else 0 * expected.take([0], axis) for p in places
        ]
        assume(lines)
        expected = np.concatenate(lines, axis)
    signed = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    node = node_of("Pad(x, p, , a)", tuple(shape), p=np.array(pads), a=np.array(signed))
    agree(expected, node, x)


@settings(max_examples=60)
@given(st.data(), SHAPES)
def test_shapes(data: st.DataObject, shape: list[int]) -> None:
    x, dims = drawn(data.draw, *shape), len(shape)
    for text, constants in (
        (f"Flatten<axis={data.draw(st.integers(-dims, dims))}>(x)", {}),
        (f"Transpose<perm={data.draw(st.permutations(range(dims)))}>(x)", {}),
        ("Transpose(x)", {}),
        ("Reshape(x, s)", {"s": np.array([0] * (dims - 1) + [-1])}),
        ("Reshape(x, s)", {"s": np.array([shape[0], 1, -1])}),
        ("Reshape<allowzero=1>(x, s)", {"s": np.array([-1, shape[-1]])}),
        ("Unsqueeze(x, a)", {"a": np.array(data.draw(
            st.lists(st.integers(-dims - 1, dims), min_size=1, max_size=2, unique_by=lambda a, n=dims: a % (n + 2))))}),
        ("Identity(x)", {}),
    ):  # fmt: skip
        axes = constants.get("a")
        if axes is not None and len({int(a) % (dims + len(axes)) for a in axes}) < len(axes):
            continue
        agree(referenced(text, x, **constants), node_of(text, tuple(shape), **constants), x)
    ones = [i - data.draw(st.sampled_from([0, dims])) for i, size in enumerate(shape) if size == 1]
    if ones and len(ones) < dims:
        agree(referenced("Squeeze(x, a)", x, a=np.array(ones)), node_of("Squeeze(x, a)", x.shape, a=np.array(ones)), x)


@settings(max_examples=40)
@given(st.data(), SHAPES)
def test_add_concat_and_activations(data: st.DataObject, shape: list[int]) -> None:
    x, other = drawn(data.draw, *shape), drawn(data.draw, *shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    agree(np.concatenate([x, other], axis), node_of(f"Concat<axis={axis}>(x, x1)", x.shape), x, other)
    agree(x + other, node_of("Add(x, x1)", x.shape), x, other)
    agree(np.maximum(x, 0), node_of("Relu(x)", x.shape), x)
    bound = data.draw(st.sampled_from([6.0, 2.5, 3.5, 200.0]))
    limits = {"low": np.float32(0), "high": np.float32(bound)}
    clipped = [half_even(Fraction(min(max(v, 0), bound))) for v in x.reshape(-1).tolist()]
    agree(np.array(clipped).reshape(x.shape), node_of("Clip(x, low, high)", x.shape, **limits), x)
