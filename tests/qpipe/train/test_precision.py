"""bfloat16 changes how training computes, never what is evaluated and written."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from qpipe.arith.spec import QuantSpec
from qpipe.settings.training import BatchNormMode
from qpipe.train.executor import Executor
from qpipe.train.straight_through import fake_quantize
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact
from support.training import train_steps


def network() -> Network:
    return Network(3, 8, 8, seed=0)


def build(net: Network, **options: int) -> object:
    a = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    b = net.norm(net.conv(net.op("Relu", net.conv(a, 8, 8, bias=True)), 8, 8), 8)
    return quantized(net.model(net.head(net.op("Relu", net.op("Add", b, a)), 8)), net.inputs(), **options)


@given(bits=st.integers(2, 8), signed=st.booleans(), exponent=st.integers(-20, 20), seed=st.integers(0, 99))
def test_every_grid_is_a_subset_of_bfloat16(bits: int, signed: bool, exponent: int, seed: int) -> None:
    spec = QuantSpec.signed(bits, exponent) if signed else QuantSpec.unsigned(bits, exponent)
    x = torch.from_numpy(np.random.default_rng(seed).normal(0, spec.largest * spec.scale, 200)).bfloat16()
    ours = fake_quantize(x, spec)
    assert ours.dtype == torch.bfloat16
    # x is given in bfloat16, so float32 rounds the same values: nothing may differ.
    assert torch.equal(ours.float(), fake_quantize(x.float(), spec))


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
@pytest.mark.parametrize("bits", [4, 8])
def test_evaluation_stays_exact(batch_norm: BatchNormMode, bits: int) -> None:
    net = network()
    model = build(net, weight_bits=bits, activation_bits=bits)
    executor = Executor(model, batch_norm=batch_norm, precision="bf16")
    train_steps(executor, net.inputs())
    write_back(executor)
    assert_exact(model, net.inputs(seed=2), executor)
    assert_exact(model, net.inputs(seed=2))


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_gradients_are_nearly_those_of_float32(batch_norm: BatchNormMode) -> None:
    net = network()
    model = build(net)
    gradients = {}
    for precision in ("fp32", "bf16"):
        executor = Executor(model, batch_norm=batch_norm, precision=precision).train()
        logits = executor(torch.from_numpy(net.inputs(64)))[0]
        assert logits.dtype == torch.float32
        F.cross_entropy(logits.flatten(1), torch.arange(64) % logits.shape[1]).backward()
        gradients[precision] = torch.cat([p.grad.flatten() for p in executor.parameters() if p.grad is not None])
    # 8 bits of mantissa in some ten operations, and ties that round the other way: some percent of the length.
    assert F.cosine_similarity(gradients["fp32"], gradients["bf16"], dim=0) > 0.99
