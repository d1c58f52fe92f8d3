"""Fake quantization is the definition, bit for bit; its gradient is 1 inside of the range and 0 outside."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec
from qpipe.train.straight_through import (
    channels_last,
    exact_fake_quantize,
    fake_quantize,
    layout_of,
    straight_through,
)

SPECS = [QuantSpec.unsigned(8, 0), QuantSpec.signed(8, 0), QuantSpec.unsigned(4, 0), QuantSpec.signed(2, 0),
         QuantSpec(0, 0, 192), QuantSpec(0, -128, 127, 128)]  # fmt: skip


@pytest.mark.parametrize("exponent", [-60, -9, 0, 7, 60])
@pytest.mark.parametrize("spec", SPECS)
def test_halves_and_their_neighbours(spec: QuantSpec, exponent: int) -> None:
    spec = dataclasses.replace(spec, exponent=exponent)
    halves = np.arange(-600, 601, dtype=np.float32) / 2
    values = np.concatenate([halves, np.nextafter(halves, np.float32(1e9)), np.nextafter(halves, np.float32(-1e9))])
    values = np.ldexp(values, exponent)
    expected = dequantize(quantize(values, spec), spec)
    np.testing.assert_array_equal(fake_quantize(torch.from_numpy(values), spec).numpy(), expected)
    np.testing.assert_array_equal(exact_fake_quantize(torch.from_numpy(values).double(), spec).numpy(), expected)


@given(x=st.floats(allow_nan=False, width=32), spec=st.sampled_from(SPECS), exponent=st.integers(-40, 40))
def test_any_float(x: float, spec: QuantSpec, exponent: int) -> None:
    spec = dataclasses.replace(spec, exponent=exponent)
    value = np.array([x], np.float32)
    assert (
        fake_quantize(torch.from_numpy(value), spec).tolist()
        == dequantize(quantize(value.astype(np.float64), spec), spec).tolist()
    )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient(spec: QuantSpec, dtype: torch.dtype) -> None:
    spec = dataclasses.replace(spec, exponent=-3)
    low, high = spec.qmin * spec.scale, spec.qmax * spec.scale
    # As near to the ends as bfloat16's steps of 1/8 beside them are.
    points = torch.tensor([low - 100, low - 0.125, low + 0.125, 0.1 * high, high - 0.125, high + 0.125, high + 100])
    x = points.to(dtype).requires_grad_()
    y = fake_quantize(x, spec)
    y.backward(torch.arange(1.0, 8).to(dtype))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


@pytest.mark.parametrize("spec", SPECS)
def test_the_gradient_may_reach_ymax(spec: QuantSpec) -> None:
    """A step beyond the largest code; a ReLU's 0 and a ReLU6's bound, which 192 of 255 is, stay ends."""
    low = spec.qmin - 1 if spec.is_signed else 0
    high = spec.qmax if spec.qmax == 192 else spec.qmax + 1
    points = torch.tensor([low - 0.5, low + 0.5, 0.5, high - 0.5, high + 0.5])
    x = points.clone().requires_grad_()
    y = fake_quantize(x, spec, to_ymax=True)
    assert torch.equal(y, fake_quantize(points, spec))
    y.backward(torch.arange(1.0, 6))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 0]


def test_nan_stays_visible() -> None:
    assert fake_quantize(torch.tensor([float("nan")]), SPECS[0]).isnan().all()


def test_straight_through() -> None:
    x = torch.tensor([1e20, -3.0], requires_grad=True)
    y = straight_through(x, torch.tensor([1.0, 2.0]))
    assert y.tolist() == [1.0, 2.0]  # exactly: x + (q - x) would be 0 far outside
    (y * torch.tensor([5.0, 7.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [5.0, 7.0]


def test_the_gradient_has_the_layout_of_the_result() -> None:
    x = channels_last(torch.zeros(2, 3, 4, 5)).requires_grad_()
    y = fake_quantize(x * 1, SPECS[0])
    seen: list[torch.Tensor] = []
    y.register_hook(lambda gradient: gradient.contiguous())  # what a slice or a mean hands back
    x.register_hook(seen.append)
    y.sum().backward()
    assert layout_of(y) == layout_of(seen[0]) == torch.channels_last


def test_what_is_no_image_stays_contiguous() -> None:
    assert layout_of(channels_last(torch.zeros(2, 3).T)) == torch.contiguous_format
