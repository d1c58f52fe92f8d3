"""Constant operands of ops that combine tensors: their grids, all exports, and what becomes of them in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.rewrites.name_nodes import NameNodes
from passes.rewrites.remove_identity import RemoveIdentity
from passes.shipping.remove_quantizers import RemoveQuantizers
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import constant_array
from qpipe.ops.constant_operand import constant_grid, read_constant
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, float_model
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, on_grids, quantized, to_qoperator
from support.random_grids import ACTIVATIONS
from support.run import assert_exact

Shape = tuple[int, ...]

OPS = ("Add", "Sub", "Mul", "Max", "Min")
CONSTANTS: dict[str, Shape] = {
    "one number": (),
    "a list of one": (1,),
    "per channel": (4, 1, 1),
    "per column": (6,),
    "per row": (5, 1),
    "all": (4, 5, 6),
    "with an axis for images": (1, 4, 5, 1),
}


def beside_constant(draw: Any, op: str, constant: np.ndarray, *, is_first: bool) -> ir.Model:
    """A layer of weights, the op with a constant, another layer, as no pass has touched it; finalized."""
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w3", 5, 4, 1, 1)
    function, operands = draw(st.sampled_from(["Relu(c)", "Identity(c)"])), ("k, a" if is_first else "a, k")
    nodes = ["c = Conv(x, w1)", f"a = {function}", f"j = {op}({operands})", f"r = {draw(ACTIVATIONS).format('j')}"]
    constants = w.constants | {"k": constant, "low": np.float32(0), "six": np.float32(0.7)}
    used = {name: array for name, array in constants.items() if name not in {"low", "six"} or "Clip" in nodes[-1]}
    model = float_model("net", (3, 5, 6), [*nodes, "y = Conv(r, w3)"], **used)
    NameNodes()(model)
    RemoveIdentity()(model)
    return on_grids(model, lambda: draw(st.integers(-3, 3)), bits=draw(st.sampled_from([8, 8, 4])))


@settings(max_examples=5)
@given(data=st.data(), is_first=st.booleans(), low=st.sampled_from([-1.0, 0.0]), scale=st.integers(-6, 6))
@pytest.mark.parametrize("shape", CONSTANTS)
@pytest.mark.parametrize("op", OPS)
def test_a_constant_operand_is_on_a_grid(
    op: str, shape: str, data: st.DataObject, is_first: bool, low: float, scale: int
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    high = data.draw(st.sampled_from([0.0, 1.0])) if low else 1.0
    constant = (rng.uniform(low, high, CONSTANTS[shape]) * 2.0**scale).astype(np.float32)
    spec = beside_constant(data.draw, op, constant, is_first=is_first)
    (layer,) = (layer for layer in read_view(spec).layers if layer.op_type == op)
    (found,) = (
        read_constant(value) for i, value in enumerate(layer.node.inputs) if i in layer.op.fixed_operands(layer.node)
    )
    assert np.abs(found.integers * found.grid.scale - constant).max() <= found.grid.scale / 2
    assert certify(read_view(spec)).problems == []
    x = rng.standard_normal((2, 3, 5, 6)).astype(np.float32)
    assert_integers(spec, x, optimize=data.draw(st.booleans()))
    run_gate(spec, to_qoperator(spec))


@pytest.mark.parametrize("number", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("op", OPS)
def test_one_number_many_times_repeats_what_it_meets(op: str, number: float) -> None:
    """As a bias of attention that is the same everywhere does with a mask that has one row for all heads."""
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "a = Relu(c)", f"j = {op}(a, k)", "y = Conv(j, w2)"]
    many = np.full((1, 4, 5, 6), number, np.float32)
    spec = finalized_on_grids(float_model("net", (3, 1, 6), nodes, **w.constants, k=many), lambda: -3)
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, 1, 6)).astype(np.float32))
    run_gate(spec, to_qoperator(spec))


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=4), st.integers(-30, 30), st.sampled_from([-120, -3, 5])
)
def test_a_constant_s_grid_is_the_finest_of_8_bits(numbers: list[float], scale: int, finest: int) -> None:
    array = np.array(numbers, np.float64) * 2.0**scale
    grid = constant_grid(array, finest)
    steps = np.round(array / grid.scale)
    assert steps.min() >= grid.qmin
    assert steps.max() <= grid.qmax
    assert grid.zero_point == -grid.qmin
    finer = np.round(np.array([min(array.min(), 0), max(array.max(), 0)]) * 2 / grid.scale)
    assert finer[1] - finer[0] > 255 or grid.exponent == finest or not array.any()


@pytest.mark.parametrize("factor", [0.125, 1.0, 4.0, -2.0])
def test_powers_of_two_are_exact(factor: float) -> None:
    grid = constant_grid(np.array(factor))
    assert round(factor / grid.scale) * grid.scale == factor


def test_a_constant_comes_back_as_it_was_and_does_not_train() -> None:
    """Also a positional embedding, which no layer of weights can take."""
    w = Weights()
    for name, shape in {"w1": (4, 6), "p": (1, 5, 6), "w2": (6, 3)}.items():
        w.normal(name, *shape)
    nodes = ["a = MatMul(x, w1)", "t = Tanh(a)", "s = Add(t, p)", "y = MatMul(s, w2)"]
    model = quantized(float_model("net", (5, 4), nodes, **w.constants))
    executor, x = Executor(model), torch.randn(8, 5, 4)
    assert_exact(model, x.numpy(), executor)
    executor.train()(x)[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)
    assert w.constants["p"].shape not in {tuple(p.shape) for p in executor.parameters()}
    RemoveQuantizers()(model)
    (add,) = (node for node in model.graph if node.op_type == "Add")
    np.testing.assert_array_equal(constant_array(add.inputs[1]), w.constants["p"])


@pytest.mark.parametrize("divisor", [3.0, 8.0])
def test_a_quotient_by_a_constant_is_a_product(divisor: float) -> None:
    w = Weights()
    for name in ("w1", "w2"):
        w.normal(name, 3, 3, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "d = Div(r, k)", "e = Add(d, r)", "y = Conv(e, w2)"]
    k = np.random.default_rng(0).uniform(1, 2, (3, 4, 4)).astype(np.float32) * np.float32(divisor)
    spec = finalized_on_grids(float_model("net", (3, 4, 4), nodes, k=k, **w.constants), lambda: 1)
    assert [layer.op_type for layer in read_view(spec).layers] == ["Conv", "Mul", "Add", "Conv"]
    assert_integers(spec, np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32))
