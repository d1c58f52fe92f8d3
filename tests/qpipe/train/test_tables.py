"""Activations behind a table: training, the file on onnxruntime and both exports have the same integers."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from qpipe.arith.spec import QuantSpec
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import read_final_view, read_view
from qpipe.ops import Rectifier
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.quantizer import Quantizer
from qpipe.train.write_back import write_back
from support.code_tables import put_tables, random_table
from support.oracle import assert_integers
from support.quantize import finalized, quantized, to_qoperator
from support.run import evaluated, run
from support.training import train_steps
from support.zoo.every_op import NETWORKS, Build, build, conv_norm_relu, residual, separable


@pytest.mark.parametrize(("network", "bits"), [*((network, 8) for network in NETWORKS), (residual, 4), (separable, 4)])
def test_every_file_has_the_same_integers(network: Build, bits: int) -> None:
    net, outputs = build(network)
    model = quantized(net.model(*outputs), net.inputs(), weight_bits=bits, activation_bits=bits)
    assert put_tables(model)
    ir.passes.common.CheckerPass()(model)
    executor = Executor(model)
    images = net.inputs(seed=2, scale=1.5)
    assert_exact(model, images, executor)
    train_steps(executor, net.inputs())
    write_back(executor)
    assert_exact(model, images, executor)
    assert_exact(model, images, Executor(model))
    spec = finalized(model)
    assert not certify(read_final_view(spec)).problems
    assert_integers(spec, images)
    lowered = to_qoperator(spec)
    ir.passes.common.CheckerPass()(lowered)
    run_gate(spec, lowered)


def assert_exact(model: ir.Model, inputs: np.ndarray, executor: Executor) -> None:
    """As that of `networks`, but a global mean may lie on one level for all images."""
    ours, theirs = evaluated(executor, inputs), run(finalized(model), inputs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.astype(np.float32).reshape(b.shape), b)
    assert np.ptp(theirs[0]) > 0


def test_gradient_is_straight_through_within_the_range() -> None:
    before = QuantSpec.unsigned(4, -2)
    table = random_table(before, np.random.default_rng(0), signed=True)
    quantizer = Quantizer(table, Rectifier(float("inf")), carries=False)
    x = torch.linspace(-2, 6, 257, requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad, ((x > 0) & (x < 3.75)).float())
    found = y.detach()
    with torch.no_grad():
        np.testing.assert_array_equal(found, quantizer.eval()(x))
    assert set(found.tolist()) == {(code - 128) * table.grid.scale for code in table.reached}


@pytest.mark.parametrize("bits", [4, 8])
def test_bfloat16_has_the_same_levels(bits: int) -> None:
    table = random_table(QuantSpec.signed(bits, -4), np.random.default_rng(1), signed=True)
    quantizer = Quantizer(table, carries=False)
    x = torch.linspace(-9, 9, 500).bfloat16()
    np.testing.assert_array_equal(quantizer(x).float(), quantizer(x.float()))


def test_a_checkpoint_of_another_table_is_another_network() -> None:
    net, outputs = build(conv_norm_relu)
    first = quantized(net.model(*outputs), net.inputs())
    second = first.clone()
    put_tables(first, seed=0)
    put_tables(second, seed=1)
    states = [Executor(model).state_dict() for model in (first, second)]
    assert states[0].keys() == states[1].keys()
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_view_keeps_both_grids() -> None:
    net, outputs = build(residual)
    model = quantized(net.model(*outputs), net.inputs())
    before = [q.grid for layer in read_view(model).layers for q in layer.sources]
    count = put_tables(model)
    found = [q for layer in read_view(model).layers for q in layer.sources]
    assert [q.rounded_to for q in found] == before
    tables = {q.output: q.table for q in found if q.table is not None}
    assert len(tables) == count
    assert all(q.grid == q.table.grid for q in found if q.table is not None)
    assert {q.codes.dtype for q in found} == {ir.DataType.UINT8}
