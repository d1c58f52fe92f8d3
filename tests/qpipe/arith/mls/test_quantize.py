"""Dynamic quantization against Algorithm 1 in rational numbers, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, MlsFormat
from qpipe.arith.mls.generators import RandomParts
from qpipe.arith.mls.quantize import MlsTensor, quantize
from qpipe.arith.mls.rounding import part_bits
from support.mls import ELEMENTS, GROUP_FORMATS, numbers, quantized

GROUPINGS = ["none", "n", "c", "nc"]
FORMATS = st.builds(
    MlsFormat,
    st.sampled_from(ELEMENTS),
    st.sampled_from(GROUPINGS),
    st.sampled_from(GROUP_FORMATS),
    st.sampled_from(["carry", "clip"]),
    st.booleans(),
)
LAYOUTS = ["contiguous", "channels_last", "transposed"]


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...]) -> torch.Tensor:
    """Of this shape, with zeros, ties and all magnitudes that float32 has."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread, center = draw(st.sampled_from([0, 3, 20, 120])), draw(st.sampled_from([0, 0, -40, 60, -125, 127]))
    digits = draw(st.sampled_from([1, 3, 10, 24]))
    fractions = 1 + rng.integers(0, 2 ** (digits - 1), shape) * 2.0 ** (1 - digits)
    exponents = np.minimum(rng.integers(center - spread, center + spread + 1, shape), 127)
    magnitudes = np.where(rng.random(shape) < draw(st.sampled_from([0, 0.3, 1])), 0, np.ldexp(fractions, exponents))
    return torch.from_numpy(np.where(rng.random(shape) < 0.5, -magnitudes, magnitudes).astype(np.float32))


def in_layout(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "contiguous" or x.dim() < 2:
        return x
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def in_memory_order(x: torch.Tensor) -> list[int]:
    """Where each element of a dense tensor lies."""
    return list(
        np.argsort(np.argsort([sum(i * s for i, s in zip(p, x.stride(), strict=True)) for p in np.ndindex(x.shape)]))
    )


def parts_of(result: MlsTensor, element: ElementFormat, seed: int) -> np.ndarray:
    """The random part of each element, in the order of a result's memory."""
    parts = RandomParts(torch.Generator().manual_seed(seed), part_bits(element))
    taken = parts.take(result.values.numel()).numpy()
    return taken[in_memory_order(result.values)].reshape(result.values.shape)


def assert_exact(x: torch.Tensor, fmt: MlsFormat, seed: int | None = None, groups: int = 1) -> MlsTensor:
    """The result, which equals the oracle's; seed: of stochastic rounding."""
    found = quantize(x, fmt, None if seed is None else torch.Generator().manual_seed(seed), groups=groups)
    expected = quantized(x.numpy(), fmt, None if seed is None else parts_of(found, fmt.element, seed), groups)
    assert Fraction(found.scale.item()) == expected.scale
    assert_equal(found.group_scale.broadcast_to(x.shape), expected.group_scale)
    assert_equal(found.values, expected.values)
    assert not found.values[found.values == 0].signbit().any()
    return found


def assert_equal(found: torch.Tensor, expected: np.ndarray) -> None:
    pairs = zip(found.numpy().astype(np.float64).flat, expected.flat, strict=True)
    assert [(a, b) for a, b in pairs if Fraction(a) != b] == []


@settings(max_examples=200)
@given(data=st.data(), fmt=FORMATS, layout=st.sampled_from(LAYOUTS), seed=st.none() | st.integers(0, 100))
def test_it_is_algorithm_1(data: st.DataObject, fmt: MlsFormat, layout: str, seed: int | None) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=max(fmt.axes, default=-1) + 1, max_size=5)))
    x = in_layout(data.draw(tensors(shape)), layout)
    found = assert_exact(x, fmt, seed)
    if layout == "channels_last":
        assert found.values.stride() == x.stride()


@settings(max_examples=50)
@given(
    data=st.data(), fmt=FORMATS, layout=st.sampled_from(LAYOUTS), groups=st.integers(1, 3), seed=st.none() | st.just(0)
)
def test_grouped_convolutions_weights(
    data: st.DataObject, fmt: MlsFormat, layout: str, groups: int, seed: int | None
) -> None:
    shape = (groups * data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), 2)
    assert_exact(in_layout(data.draw(tensors(shape)), layout), fmt, seed, groups)


X = MlsFormat(ElementFormat(2, 1), "n", GroupFormat(8, 1))


def test_a_worked_example() -> None:
    """Two groups of ⟨2, 1⟩, ⟨8, 1⟩: elements are 0, 1, 2, 3, 4, 6, 8, 12 sixteenths."""
    x = torch.tensor([[8.0, -5.0, 4.9, 1.0, 0.2], [2.25, 1.9, -0.3, 0.09, 0.0]])
    found = quantize(x, X, None)
    assert found.scale.item() == 8
    # 8 / 8 is 1. 2.25 / 8 = 1.125 * 2**-2, whose fraction goes up to 1.5: 0.375.
    assert found.group_scale.tolist() == [[1], [0.375]]
    # In sixteenths, the first group: 16 (the top, 12), 10 (a tie: 8 is even in units of 4), 9.8, 2, 0.4.
    # The second one by 8 * 0.375 = 3: 12, 10.13, 1.6, 0.48, 0.
    sixteenths = [[12, -8, 8, 2, 0], [12, 12, -2, 0, 0]]
    assert (found.values / found.group_scale * 16).tolist() == sixteenths


def test_ties_go_to_the_even_multiple_of_the_unit() -> None:
    """Of ⟨2, 1⟩ below the tensor's maximum 16: units are 1 up to 4, then 2, then 4."""
    x = torch.tensor([16, 0.5, 1.5, 2.5, 3.5, 5, 7, 10, 14])
    values = quantize(x, replace(X, grouping="none"), None).values * 16
    assert values.tolist() == [12, 0, 2, 2, 4, 4, 8, 8, 12]


def test_a_fraction_of_two_is_carried_or_clipped() -> None:
    """7.5 of 16 has the fraction 1.875, which rounds up to 2; so has 3.9; 1.9 would become a normal number."""
    x = torch.tensor([16, 7.5, 14.5, 3.9, 1.9, 0.9])
    carried, clipped = (
        (quantize(x, replace(X, grouping="none", overflow=overflow), None).values * 16).tolist()
        for overflow in ("carry", "clip")
    )
    assert carried == [12, 8, 12, 4, 2, 1]
    assert clipped == [12, 6, 12, 3, 1, 1]


def test_without_a_mantissa_nothing_is_below_the_normal_numbers() -> None:
    """Of ⟨2, 0⟩, 0 and 2 to 8 sixteenths, 1.5 is rounded up to 2, or clipped to a zero, which has no sign."""
    x = torch.tensor([16, -1.5, 1.5, -0.9])
    for overflow, expected in (("carry", [8, -2, 2, 0]), ("clip", [8, 0, 0, 0])):
        fmt: Any = MlsFormat(ElementFormat(2, 0), "none", overflow=overflow)  # type: ignore[arg-type]
        values = quantize(x, fmt, None).values * 16
        assert values.tolist() == expected
        assert not values[values == 0].signbit().any()


def test_scales_are_rounded_up() -> None:
    """A group's maximum never exceeds its scale, and is over 2/3 of it (or half, without a mantissa)."""
    maxima = torch.tensor([1, 0.76, 0.75, 0.74, 0.5, 2.0**-9, 2.0**-10])[:, None]
    one, none = (quantize(maxima, replace(X, group=GroupFormat(3, m)), None).group_scale.flatten() for m in (1, 0))
    assert one.tolist() == [1, 1, 0.75, 0.75, 0.5, 2.0**-7, 2.0**-7]
    assert none.tolist() == [1, 1, 1, 1, 0.5, 2.0**-7, 2.0**-7]


def test_the_tensors_scale_as_a_power_of_two() -> None:
    for largest, scale in ((3.0, 4.0), (4.0, 4.0), (4.1, 8.0), (0.0, 2.0**-126), (3e38, 2.0**127)):
        found = quantize(torch.tensor([largest]), replace(X, power_of_two=True), None)
        assert found.scale.item() == scale


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (2, 3), (0, 3, 2, 2), (2, 3, 0, 2)])
def test_zeros(grouping: Any, shape: tuple[int, ...]) -> None:
    found = quantize(torch.zeros(shape), replace(X, grouping=grouping), torch.Generator().manual_seed(0))
    assert found.values.shape == shape
    assert not found.values.any()
    assert found.scale.item() == 2.0**-126


def test_a_group_of_zeros_leaves_the_others_alone() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    found, alone = quantize(x, X, None), quantize(x[1:], X, None)
    assert torch.equal(found.values[1:], alone.values)
    assert found.scale == alone.scale
    assert not found.values[0].any()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_what_is_not_finite_is_refused(bad: float, grouping: Any) -> None:
    x = torch.ones(2, 3, 4, 4)
    x[1, 1, 2, 2] = bad
    for layout in ("contiguous", "channels_last"):
        with pytest.raises(FloatingPointError, match=r"a tensor .* expected finite numbers"):
            quantize(in_layout(x, layout), replace(X, grouping=grouping), None)


def test_a_missing_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grouping 'nc' of a tensor of shape \[3\], expected two axes or more"):
        quantize(torch.ones(3), replace(X, grouping="nc"), None)


@pytest.mark.parametrize("mantissa", range(8))
@pytest.mark.parametrize("seed", [None, 3])
def test_one_bit_of_exponent_equals_one_of_mantissa(mantissa: int, seed: int | None) -> None:
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(mantissa))
    one, none = (
        quantize(x, MlsFormat(ElementFormat(e, mantissa + 1 - e)), seed and torch.Generator().manual_seed(seed))
        for e in (1, 0)
    )
    assert torch.equal(one.values, none.values)


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@pytest.mark.parametrize("overflow", ["carry", "clip"])
def test_numbers_of_the_grid_stay(element: ElementFormat, overflow: Any) -> None:
    """Under stochastic rounding too, whatever the bits: 300 draws for each number."""
    grid = torch.tensor([float(number.value) for number in numbers(element)])
    x = torch.cat([torch.ones(1), torch.cat([grid, -grid]).repeat(300)])
    fmt = MlsFormat(element, "none", overflow=overflow)
    for generator in (None, torch.Generator().manual_seed(1)):
        assert torch.equal(quantize(x, fmt, generator).values[1:], x[1:])


@pytest.mark.parametrize(
    "element", [ElementFormat(2, 1), ElementFormat(0, 4), ElementFormat(3, 0), ElementFormat(2, 8)], ids=str
)
def test_the_mean_of_stochastic_rounding_is_the_number(element: ElementFormat) -> None:
    """Of 40,000 draws for each of 40 numbers below the top, and all of them are one of its two neighbours.

    The mean has the variance p (1 - p) unit**2 / draws. Six deviations, and the 2**-14 of a unit that random bits err,
    are exceeded once in 10**7 such tests.
    """
    draws = 40_000
    x = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * element.largest
    x[0] = 1
    grid = torch.tensor([float(number.value) for number in numbers(element)], dtype=torch.float64)
    fmt = MlsFormat(element, "none")
    rounded = quantize(x.float().repeat(draws, 1), fmt, torch.Generator().manual_seed(6)).values.double()
    above = torch.searchsorted(grid, x[1:].float().double())
    low, high = grid[above - 1], grid[above]
    assert ((rounded[:, 1:] == low) | (rounded[:, 1:] == high)).all()
    unit = high - low
    p = (x[1:].float() - low) / unit
    allowed = unit * (6 * (p * (1 - p) / draws).sqrt() + 2.0**-14)
    assert ((rounded[:, 1:].mean(0) - x[1:].float()).abs() <= allowed).all()


def test_large_tensors_are_rounded_in_pieces_like_small_ones() -> None:
    """Pieces are many samples, a part of one, or more than was meant; the reference takes the tensor as a whole."""
    rng = torch.Generator().manual_seed(2)
    for shape in ((2, 3, 300, 300), (3, 300_000), (2_000, 3, 9, 11), (1, 2, 5, 140_001), (2, 70, 64, 64)):
        x = torch.randn(shape, generator=rng)
        for layout in ("contiguous", "channels_last"):
            for grouping in GROUPINGS:
                fmt = MlsFormat(ElementFormat(2, 1), grouping)  # type: ignore[arg-type]
                found = quantize(in_layout(x, layout), fmt, None)
                over = tuple(axis for axis in range(x.dim()) if axis not in fmt.axes)
                maxima = x.abs().amax(over, keepdim=True) if over else x.abs()
                assert (maxima <= found.group_scale * found.scale).all()
                kept = found.group_scale * found.scale
                t = (x / kept).clamp(-1, 1)
                unit = torch.ldexp(torch.ones(()), (t.abs().frexp()[1].clamp(-2, 0) - 2).float())
                expected = (t / unit).round() * unit
                assert torch.equal(found.values, expected.clamp(-0.75, 0.75) * found.group_scale)
