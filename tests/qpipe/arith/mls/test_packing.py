"""MLS tensors as bits: every code there and back, and by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, MlsFormat
from qpipe.arith.mls.packing import (
    element_codes,
    elements_of,
    group_codes,
    group_scales_of,
    pack,
    packed,
    packed_size,
    unpack,
    unpacked,
)
from qpipe.arith.mls.quantize import MlsTensor, quantize
from support.mls import ELEMENTS, numbers

FMT = MlsFormat(ElementFormat(2, 1), "n", GroupFormat(8, 1))
GROUPS = [GroupFormat(e, m) for e in range(1, 9) for m in (0, 1)]


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_every_code_of_an_element(element: ElementFormat) -> None:
    """Of all formats, those of up to 8 bits among them: codes count the numbers in ascending order, sign above."""
    codes = np.arange(2**element.bits)
    found = elements_of(codes, element)
    values = [number.value for number in numbers(element)]
    assert [Fraction(float(x)) for x in found] == [*values, *(-value for value in values)]
    assert np.signbit(found).tolist() == (codes >= len(values)).tolist()
    assert (element_codes(found, element) == codes).all()
    assert (unpacked(packed(codes, element.bits), element.bits, len(codes)) == codes).all()


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_every_code_of_a_group(group: GroupFormat) -> None:
    """But those of scales above 1 (a mantissa beside the exponent 0), which none of ours are, and below float32."""
    codes = np.arange(2**group.bits)
    found = group_scales_of(codes, group)
    exact = [Fraction(2 + (c & group.mantissa), 2) / 2 ** (c >> group.mantissa) for c in codes.tolist()]
    held = np.asarray([value >= Fraction(1, 2**126) for value in exact])
    assert [Fraction(float(x)) for x in found[held]] == [value for value, kept in zip(exact, held, strict=True) if kept]
    assert (group_codes(found[held], group) == codes[held]).all()
    assert (unpacked(packed(codes, group.bits), group.bits, len(codes)) == codes).all()


def test_a_tensor_by_hand() -> None:
    """Codes of ⟨2, 1⟩: 12/16 is 0.111, 2/16 is 0.010; of ⟨8, 1⟩ 1 is 0·0, 0.375 = 1.5 * 2**-2 is 2·1."""
    found = pack(quantize(torch.tensor([[8.0, 1.0], [2.25, -2.25]]), FMT, None), FMT)
    scale, groups, elements = found[:4], found[4:7], found[7:]
    assert scale == np.float32(8).tobytes()
    assert int.from_bytes(groups, "little") == 0b00000010_1 << 9 | 0b00000000_0
    assert int.from_bytes(elements, "little") == 0b1_11_1 << 12 | 0b0_11_1 << 8 | 0b0_01_0 << 4 | 0b0_11_1


def test_how_many_bytes_a_tensor_has() -> None:
    """4 bits each and 9 for a group; what the documentation says is this."""
    shape = (128, 16, 32, 32)
    fmt = MlsFormat(ElementFormat(2, 1), "nc", GroupFormat(8, 1))
    data = pack(quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), fmt, None), fmt)
    assert len(data) == packed_size(shape, fmt) == 4 + 128 * 16 * 9 // 8 + 128 * 16 * 32 * 32 // 2 == 1_050_884


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3).map(lambda sizes: [2, *sizes]),
    groups=st.integers(1, 3),
    element=st.sampled_from(ELEMENTS),
    group=st.sampled_from(GROUPS),
    grouping=st.sampled_from(["none", "n", "c", "nc"]),
    seed=st.integers(0, 1000),
)
def test_a_tensor_comes_back(
    shape: list[int], groups: int, element: ElementFormat, group: GroupFormat, grouping: str, seed: int
) -> None:
    shape[0] *= groups
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=rng) * torch.randn(*shape[:2], *[1] * len(shape[2:]), generator=rng).exp()
    fmt = MlsFormat(element, grouping, group)  # type: ignore[arg-type]
    tensor = quantize(x.movedim(1, -1).contiguous().movedim(-1, 1), fmt, None, groups=groups)
    data = pack(tensor, fmt, groups=groups)
    assert len(data) == packed_size(shape, fmt, groups=groups)
    assert_same(unpack(data, shape, fmt, groups=groups), tensor)


def assert_same(found: MlsTensor, tensor: MlsTensor) -> None:
    assert torch.equal(found.values, tensor.values)
    assert torch.equal(found.scale, tensor.scale)
    assert torch.equal(found.group_scale, tensor.group_scale)


@pytest.mark.parametrize("other", [0.3, 1.0, 1 / 32, -0.8, float("inf"), float("nan")])
def test_what_is_no_number_of_the_format_is_refused(other: float) -> None:
    with pytest.raises(ValueError, match="a number is not of the format ⟨2, 1⟩"):
        element_codes(np.asarray([0.5, other], np.float32), ElementFormat(2, 1))


@pytest.mark.parametrize("other", [0.6, 2.0, 1 / 16, -0.5, 0.0])
def test_what_is_no_scale_of_the_format_is_refused(other: float) -> None:
    with pytest.raises(ValueError, match="a group's scale is not of the format ⟨2, 1⟩"):
        group_codes(np.asarray([0.5, other], np.float32), GroupFormat(2, 1))


@pytest.mark.parametrize("cut", [-1, 1])
def test_another_number_of_bytes_is_refused(cut: int) -> None:
    data = pack(quantize(torch.ones(2, 3), FMT, None), FMT)
    with pytest.raises(ValueError, match=r"bytes, expected 10 of ⟨2, 1⟩, n ⟨8, 1⟩ and shape \[2, 3\]"):
        unpack(data[:cut] if cut < 0 else data + b"\0", (2, 3), FMT)
