"""A layer whose parts go different ways becomes one for each of them, and every other stays whole."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import qpipe
from passes.quantizing.separate_parts import SeparateParts
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from support.networks import Network, checked, ops
from support.quantize import finalized
from support.run import run

FLOAT32_SUMS = 1e-6
"""Of the outputs' size: a product of fewer columns may be summed in another order."""


def part(n: Network, x: str, start: int, end: int, axis: int = 1) -> str:
    bounds = [n.constant(np.array([number])) for number in (start, end, axis)]
    return n.op("Slice", x, *bounds)


def gate(n: Network, *, loud: float = 1.0, first: str = "", second: str = "Sigmoid") -> str:
    """A convolution and a BatchNormalization whose 12 channels are 8 numbers, times `loud`, and 4 others."""
    gamma = np.where(np.arange(12) < 8, np.float32(loud), np.float32(1))
    wide = n.norm(n.conv("x", 4, 12), 12, gamma)
    parts = [part(n, wide, 0, 8), part(n, wide, 8, 12)]
    shaped = [n.op(op, x) if op else x for op, x in zip((first, second), parts, strict=True)]
    return n.op("Add", n.conv(shaped[0], 8, 4), n.conv(shaped[1], 4, 4))


def gated(**choices: Any) -> tuple[Network, str]:
    n = Network(4, 6, 6, seed=3)
    return n, gate(n, **choices)


def sequence(*, axis: int) -> tuple[Network, str]:
    """A product of 24 columns as 3 parts of 2 heads, as exporters write it; the last part goes into a Tanh."""
    n = Network(5, 8, seed=4)
    x = n.op("Add", n.constant(n.floats(24)), n.op("MatMul", "x", n.constant(n.floats(8, 24, scale=8**-0.5))))
    if axis == 2:
        parts = [part(n, x, at, at + 8, 2) for at in (0, 8, 16)]
    else:
        x = n.op("Reshape", x, n.constant(np.array([-1, 5, 3, 2, 4] if axis == 0 else [-1, 5, 6, 4])))
        x = n.op("Transpose", x, perm=[2, 0, 3, 1, 4] if axis == 0 else [0, 2, 1, 3])
        width = 1 if axis == 0 else 2
        parts = [part(n, x, at * width, (at + 1) * width, axis) for at in range(3)]
    y = n.op("Mul", n.op("Add", parts[0], parts[1]), n.op("Tanh", parts[2]))
    return n, n.gemm(n.op("Reshape", y, n.constant(np.array([-1, 40]))), 40, 5)


def separated(n: Network, y: str, *, layers: int, count: int) -> None:
    """One layer of weights becomes so many, in a network that has `count` of them, and the function stays."""
    model, inputs = n.model(y), n.inputs(16)
    before, weighted = run(model, inputs, optimize=False)[0], ("Conv", "Gemm")
    assert sum(op in weighted for op in ops(model)) == count
    assert SeparateParts()(model).modified
    assert sum(op in weighted for op in ops(checked(model))) == count - 1 + layers
    after = run(model, inputs, optimize=False)[0]
    assert np.abs(after - before).max() <= FLOAT32_SUMS * np.abs(before).max()
    assert not SeparateParts()(model).modified
    assert all(value.uses() for value in model.graph.initializers.values())


def stays(n: Network, *outputs: str, **options: LayerTable) -> None:
    model = n.model(*outputs)
    found = ops(model)
    assert not SeparateParts(**options)(model).modified
    assert ops(model) == found


def test_a_gate_has_a_layer_of_its_own() -> None:
    separated(*gated(), layers=2, count=3)


def test_so_have_parts_that_go_into_functions_unlike() -> None:
    separated(*gated(first="Tanh"), layers=2, count=3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_behind_a_reshape_and_a_transpose(axis: int) -> None:
    separated(*sequence(axis=axis), layers=3, count=2)


@pytest.mark.parametrize("function", ["", "Relu", "Sigmoid"])
def test_parts_for_the_same_end_stay_together(function: str) -> None:
    stays(*gated(first=function, second=function))


def test_an_activation_that_all_parts_share_goes_with_each() -> None:
    n = Network(4, 6, 6, seed=3)
    wide = n.op("LeakyRelu", n.conv("x", 4, 12, bias=True), alpha=0.1)
    y = n.op("Add", n.conv(part(n, wide, 0, 8), 8, 4), n.conv(n.op("Tanh", part(n, wide, 8, 12)), 4, 4))
    separated(n, y, layers=2, count=3)


def test_what_is_told_of_a_layer_by_name_finds_it_whole() -> None:
    n, y = gated()
    stays(n, y, layers=LayerTable((LayerOptions("conv0", weight_bits=8),)))


def test_a_value_that_others_read_whole_stays() -> None:
    n = Network(4, 6, 6, seed=3)
    y = gate(n)
    stays(n, n.op("Add", y, n.conv("batchnormalization1_y", 12, 4)))


def test_a_value_that_is_an_output_stays() -> None:
    n, y = gated()
    stays(n, y, "batchnormalization1_y")


def test_parts_that_are_outputs_keep_their_names() -> None:
    n = Network(4, 6, 6, seed=3)
    wide = n.conv("x", 4, 12)
    first, second = part(n, wide, 0, 8), part(n, wide, 8, 12)
    third = n.op("Sigmoid", second)
    model, inputs = n.model(first, third), n.inputs(4)
    before = run(model, inputs, optimize=False)
    assert SeparateParts()(model).modified
    assert [value.name for value in checked(model).graph.outputs] == [first, third]
    for y, found in zip(before, run(model, inputs, optimize=False), strict=True):
        assert np.abs(found - y).max() <= FLOAT32_SUMS * np.abs(y).max()


@pytest.mark.parametrize("bounds", [((0, 8, 1), (6, 10, 1)), ((0, 4, 2), (4, 6, 2)), ((0, 12, 1), (12, 12, 1))])
def test_parts_that_overlap_are_of_pixels_or_empty_stay(bounds: tuple[tuple[int, int, int], ...]) -> None:
    n = Network(4, 6, 6, seed=3)
    wide = n.conv("x", 4, 12)
    first, second = (part(n, wide, *each) for each in bounds)
    outputs = [n.op("Relu", first), n.op("Sigmoid", second)]
    stays(n, *outputs)


def test_groups_of_channels_stay() -> None:
    n = Network(4, 6, 6, seed=3)
    wide = n.conv("x", 4, 12, groups=4)
    y = n.op("Add", n.conv(part(n, wide, 0, 8), 8, 4), n.conv(n.op("Sigmoid", part(n, wide, 8, 12)), 4, 4))
    stays(n, y)


def test_calibration_separates_and_keeps_more() -> None:
    """A gate beside numbers 64 times as large has steps of a half, and a Sigmoid of them few values."""
    n = Network(4, 6, 6, seed=3)
    wide = n.norm(n.conv("x", 4, 12), 12, np.where(np.arange(12) < 6, np.float32(64), np.float32(1)))
    y = n.conv(n.op("Mul", part(n, wide, 0, 6), n.op("Sigmoid", part(n, wide, 6, 12))), 6, 4)
    inputs = n.inputs(64)
    told = [{"match": "conv0", "weight_bits": 8}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a Sigmoid of few values keeps little
        whole = qpipe.calibrate(n.proto(y), inputs, layers=told)
    apart = qpipe.calibrate(n.proto(y), inputs)
    assert ops(apart).count("Conv") == ops(whole).count("Conv") + 1
    expected = run(n.model(y), inputs)[0]
    noise = [np.square(expected - run(finalized(network), inputs)[0]).sum() for network in (whole, apart)]
    assert noise[1] < noise[0] / 2
