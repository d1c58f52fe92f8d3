"""A skip gets a BatchNormalization where its sum's channels outgrow each other, and nowhere else."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import qpipe
from passes.quantizing.equalize_channels import EqualizeChannels
from passes.quantizing.separate_skips import SPREAD, SeparateSkips
from support.networks import Network, ops
from support.quantize import finalized
from support.run import run

CHANNELS = 12
LARGE = np.float32(2.0**6)
FLOAT32_SUMS = 1e-5
"""Of the outputs' size: factors that are no powers of two are rounded in each weight."""


def stream(*, growth: np.ndarray, tokens: bool = True, reads_weights: bool = False) -> tuple[Network, str]:
    """Two sums on a stream that BatchNormalizations read; the first branch's channels are so many times as large.

    tokens: channels are last, as a transformer has them; else images. reads_weights: so does a layer of weights.
    """
    n = Network(4, CHANNELS, seed=2) if tokens else Network(CHANNELS, 4, 4, seed=2)

    def linear(x: str, scale: np.ndarray | float = 1.0) -> str:
        weight = n.floats(CHANNELS, CHANNELS, scale=CHANNELS**-0.5) * np.float32(scale)
        if tokens:
            return n.op("MatMul", x, n.constant(weight))
        return n.op("Conv", x, n.constant(np.ascontiguousarray(weight.T)[:, :, None, None]))

    def norm(x: str, size: np.ndarray | float) -> str:
        x = n.op("Transpose", x, perm=[0, 2, 1]) if tokens else x
        gamma, zeros = np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
        variance = np.float32(np.square(size) * gamma)
        x = n.op("BatchNormalization", x, *(n.constant(array) for array in (gamma, zeros, zeros, variance)))
        return n.op("Transpose", x, perm=[0, 2, 1]) if tokens else x

    first = linear("x")
    second = n.op("Add", linear(norm(first, 1.0), growth), first)
    third = n.op("Add", linear(norm(second, growth), growth), second)
    y = norm(third, growth)
    if reads_weights:
        y = n.op("Add", y, linear(third, 1e-3))
    return n, linear(y)


def uneven() -> np.ndarray:
    """Half of the channels grow."""
    return np.where(np.arange(CHANNELS) % 2, LARGE, np.float32(1))


@pytest.mark.parametrize("tokens", [True, False])
def test_the_one_skip_whose_channels_outgrow_each_other(tokens: bool) -> None:
    n, y = stream(growth=uneven(), tokens=tokens)
    model, inputs = n.model(y), n.inputs(16)
    before, count = run(model, inputs, optimize=False)[0], ops(model).count("BatchNormalization")
    assert SeparateSkips(inputs=inputs)(model).modified
    assert ops(model).count("BatchNormalization") == count + 1
    np.testing.assert_array_equal(run(model, inputs, optimize=False)[0], before)
    assert EqualizeChannels(inputs=inputs)(model).modified
    after = run(model, inputs, optimize=False)[0]
    assert np.abs(after - before).max() <= FLOAT32_SUMS * np.abs(before).max()
    # Nothing is left to do for either.
    assert not SeparateSkips(inputs=inputs)(model).modified
    assert not EqualizeChannels(inputs=inputs)(model).modified


@pytest.mark.parametrize("tokens", [True, False])
def test_calibration_keeps_what_it_lost(tokens: bool) -> None:
    """Without the pass the small channels, which the first BatchNormalization reads, have few levels."""
    n, y = stream(growth=uneven(), tokens=tokens)
    inputs = n.inputs(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = qpipe.calibrate(n.proto(y), inputs)
    expected, found = run(n.model(y), inputs)[0], run(finalized(network), inputs)[0]
    assert 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()) > 25


@pytest.mark.parametrize("factor", [1.0, 64.0])
def test_channels_that_grow_alike_share_their_factors(factor: float) -> None:
    n, y = stream(growth=np.full(CHANNELS, np.float32(factor)))
    assert not SeparateSkips(inputs=n.inputs(16))(n.model(y)).modified


def test_a_stream_that_weights_read_stays() -> None:
    n, y = stream(growth=uneven(), reads_weights=True)
    assert not SeparateSkips(inputs=n.inputs(16))(n.model(y)).modified


def test_without_data_nothing_is_known() -> None:
    n, y = stream(growth=uneven())
    assert not SeparateSkips()(n.model(y)).modified


@pytest.mark.parametrize(("bits", "separates"), [(SPREAD - 1, False), (SPREAD + 2, True)])
def test_how_far_channels_may_grow_apart(bits: float, separates: bool) -> None:
    """A bit on either side, because a sum is not as large as its larger operand."""
    n, y = stream(growth=np.where(np.arange(CHANNELS) % 2, np.float32(4 * 2.0**bits), np.float32(4)))
    assert SeparateSkips(inputs=n.inputs(32))(n.model(y)).modified is separates
