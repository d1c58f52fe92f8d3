"""Activations that are tables: their entries, all exports, training, and what `inspect` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from passes.normalize import normalize
from passes.shipping.remove_quantizers import RemoveQuantizers
from passes.skips.strip_skips import StripSkips
from qpipe.arith.spec import QuantSpec
from qpipe.errors import ModelError
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.plan import PlannedQuantizer
from qpipe.ir.quantized.view import Requantization, read_view
from qpipe.ops import Units
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.quantizer import Quantizer
from qpipe.train.write_back import write_back
from support.curves import ALONE, CURVES, FUSED, divided, function_of, network, trainable, written
from support.networks import Weights, checked, float_model
from support.oracle import assert_integers
from support.quantize import finalized_on_grids, on_grids, quantized, to_qoperator
from support.run import assert_exact, run


@pytest.fixture(params=CURVES)
def curve(request: pytest.FixtureRequest) -> tuple[str, dict[str, float], Callable[[torch.Tensor], torch.Tensor]]:
    return CURVES[request.param]


@pytest.mark.parametrize("factor", [0.3, 1.5])
@pytest.mark.parametrize("name", CURVES)
def test_what_is_of_lines_that_meet_at_0_passes_a_factor_and_nothing_else_does(name: str, factor: float) -> None:
    op, attributes, _ = CURVES[name]
    function, x = function_of(op, attributes), np.geomspace(0.01, 8, 33)
    x = np.concatenate([-x, x])
    assert function.is_homogeneous == np.allclose(function.real(x * factor), function.real(x) * factor)


GRIDS = st.builds(
    QuantSpec.for_range, st.integers(2, 8), st.integers(-6, 6), signed=st.booleans()
)  # fmt: skip
FACTORS = st.floats(0.5, 2) | st.just(1.0)
UNITS = st.builds(Units, FACTORS, FACTORS)


@settings(max_examples=30)
@given(before=GRIDS, bits=st.integers(2, 8), share=st.sampled_from([0.0, 0.55, 0.9]), units=UNITS)
@pytest.mark.parametrize("name", CURVES)
def test_entries_are_the_nearest_integers_on_their_grid(
    name: str, before: QuantSpec, bits: int, share: float, units: Units
) -> None:
    op, attributes, real = CURVES[name]
    largest = share * 2.0 ** (before.exponent + before.largest.bit_length())
    table = replace(function_of(op, attributes), units=units).table(before, bits, largest)
    after, codes = table.grid, np.arange(before.stored_min, before.stored_max + 1)
    x = (codes - before.zero_point) * before.scale
    y = real(torch.from_numpy(x * units.inner).double()).numpy() / units.outer
    in_steps = np.clip(y / after.scale, after.qmin, after.qmax)
    found = np.array(table.reached) - after.zero_point
    assert np.abs(found - in_steps).max() <= 0.5 + 1e-9
    # Nothing saturates that commonly occurs, by more than the last step, and the next finer grid would not hold it.
    usual = np.abs(x) <= (largest or np.inf)
    assert np.abs(np.round(y / after.scale) - found)[usual].max() <= 1
    assert (after.qmax - after.qmin).bit_length() <= bits
    span = (max(y[usual].max(), 0) - min(y[usual].min(), 0)) / after.scale
    assert not span or span * 2 > 2 ** (bits - 1) - 2 or after.zero_point == 128


@pytest.mark.parametrize(("op", "attributes", "exponent"), [
    ("Clip", {"low": -1.0, "high": 1.5}, -6), ("Clip", {"low": -0.5}, -3), ("HardSigmoid", {"alpha": 1 / 6}, -5),
    ("Tanh", {}, -3),
])  # fmt: skip
def test_what_is_flat_beyond_a_bound_spends_no_code_there(op: str, attributes: dict[str, float], exponent: int) -> None:
    """Of values up to 16."""
    planned = PlannedQuantizer(ir.Value(name="x"), 8, True, curve=function_of(op, attributes))
    assert planned.grid(4, is_negative=True).exponent == exponent


def test_a_negative_is_the_mirror_s_code() -> None:
    """Where no layer of weights takes its sign."""
    before = QuantSpec.signed(8, -4)
    table = function_of("Neg", {}).table(before, 8)
    assert [code - table.grid.zero_point for code in table.reached] == [127, *range(127, -128, -1)]


@settings(max_examples=2)
@given(data=st.data())
@pytest.mark.parametrize("place", [FUSED, ALONE])
@pytest.mark.parametrize("name", CURVES)
def test_all_exports_give_the_same_integers(name: str, place: str, data: st.DataObject) -> None:
    op, attributes, _ = CURVES[name]
    bits, seed = data.draw(st.sampled_from([8, 4])), data.draw(st.integers(0, 1000))
    model, shape = network(op, attributes, seed, place)
    normalize(model)
    divided(model, lambda: data.draw(FACTORS))
    spec = on_grids(model, lambda: data.draw(st.integers(-1, 3)), bits=bits)
    assert not {op, "Relu"} & {node.op_type for node in spec.graph} - {"Clip"}
    assert certify(read_view(spec)).problems == []
    x = np.random.default_rng(seed).standard_normal((3, *shape)).astype(np.float32)
    # The oracle, the QDQ file and the integer export; then onnxruntime's own operators, layer by layer.
    assert_integers(spec, x)
    run_gate(spec, to_qoperator(spec))


@pytest.mark.parametrize(("place", "factor"), [(FUSED, 1.0), (FUSED, 1.3), (ALONE, 1.0), (ALONE, 1.3)])
def test_the_float_network_comes_back(curve: Any, place: str, factor: float) -> None:
    """Also its function, with its attributes, from what the table says that it is; its units are taken back."""
    op, attributes, _ = curve
    # No weight is moved for the sake of its pair.
    model = trainable(op, attributes, place, factor=factor, cpu="vnni")
    x = np.random.default_rng(1).standard_normal((4, 3, 6, 6)).astype(np.float32)
    before, _ = network(op, attributes, 0, place)
    normalize(before)
    RemoveQuantizers()(model)
    checked(model)
    for kind in (op, "Mul"):
        assert [n.op_type for n in model.graph].count(kind) == [n.op_type for n in before.graph].count(kind)
    np.testing.assert_allclose(run(model, x)[0], run(before, x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("units", [Units(), Units(1.25, 1.5)])
def test_the_gradient_is_the_function_s_own(curve: Any, units: Units) -> None:
    op, attributes, plain = curve
    function = replace(function_of(op, attributes), units=units)

    def real(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = plain(x * units.inner) / units.outer
        return y

    before = QuantSpec.signed(8, -5)
    quantizer = Quantizer(function.table(before, 8), function, carries=False).train()
    # Between the corners, where there are any.
    x = torch.linspace(-5.003, 4.997, 401).requires_grad_()
    y = quantizer(x)
    inside = (x.detach() >= -128 / 32) & (x.detach() <= 127 / 32)
    y.sum().backward()
    expected = x.detach().clone().requires_grad_()
    real(expected).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[inside], expected.grad[inside], rtol=1e-4, atol=1e-5)  # type: ignore[index]
    assert not x.grad[~inside].any()
    # Forward is the table, in training and out of it; without rounding, the function itself.
    torch.testing.assert_close(quantizer.eval()(x.detach()), y.detach(), rtol=0, atol=0)
    quantizer.train().round_in_training(False)
    torch.testing.assert_close(quantizer(x.detach()), real(x.detach()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", [FUSED, ALONE])
def test_it_trains_and_evaluates_as_its_file(curve: Any, place: str) -> None:
    """The executor in evaluation gives the integers of the file, before and after a step of training."""
    op, attributes, _ = curve
    model = trainable(op, attributes, place, factor=1.3)
    executor, x = Executor(model), torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        assert_exact(model, x.numpy(), executor)
        optimizer = torch.optim.SGD(executor.parameters(), 0.05)
        executor.train()(x)[0].square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)
        optimizer.step()
        executor.eval()
        write_back(executor)


def test_one_that_stands_alone_is_a_table_behind_its_input_s_grid(curve: Any) -> None:
    op, attributes, _ = curve
    (layer,) = (x for x in read_view(trainable(op, attributes, ALONE)).layers if isinstance(x, Requantization))
    assert layer.quantizer.rounded_to == layer.sources[0].grid
    assert layer.function == function_of(op, attributes)


def test_the_last_one_stays_float(curve: Any) -> None:
    """Behind the last layer nothing is gained by integers: there it is exact."""
    op, attributes, _ = curve
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 4, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "d = Conv(r, w2)", *written(op, attributes, "y", "d")]
    spec = finalized_on_grids(float_model("net", (3, 4, 4), nodes, **w.constants), lambda: 1)
    view = read_view(spec)
    assert view.layers[-1].quantizer is None
    assert [layer.op_type for layer in view.tail] == (["Sigmoid", "Mul"] if op == "SiLU" else [op])
    assert not spec.functions


def test_floats_between_quantizers_are_refused() -> None:
    """As another tool writes them: they are no table."""
    model = trainable("Sigmoid", {}, ALONE)
    (layer,) = (x for x in read_view(model).layers if isinstance(x, Requantization))
    quantize = layer.node
    node = ir.node("Sigmoid", [quantize.inputs[0]], name="loose")
    node.outputs[0].name = "loose"
    model.graph.insert_before(quantize, node)
    quantize.replace_input_with(0, node.outputs[0])
    with pytest.raises(ModelError, match="Sigmoid 'loose': computes floats between quantizers, expected the table"):
        read_view(model)


@pytest.mark.parametrize("place", [FUSED, ALONE])
def test_inspect_shows_it_as_quantized(curve: Any, place: str) -> None:
    """In the float network, and in the file that calibration makes of it."""
    op, attributes, _ = curve
    model, _ = network(op, attributes, 0, place)
    report = qpipe.inspect(model.clone())
    assert report.ready
    assert {node.role for node in report.nodes if node.op == op} == {"quantized"}
    notes = {node.name: node.note for node in report.nodes}
    assert notes["Conv_d" if place == ALONE else "Conv_c"].startswith("8-bit weights, 8-bit output, ")
    assert any(f"a table of {op}" in note for note in notes.values())
    found = qpipe.inspect(quantized(model))
    assert {node.role for node in found.nodes} <= {"quantized", "carries integers"}
    assert any(f"-> {op}, " in node.note for node in found.nodes)


@pytest.mark.parametrize("end", ["behind the Add", "before the Add"])
def test_a_skip_is_stripped_and_the_table_stays(curve: Any, end: str) -> None:
    op, attributes, _ = curve
    w, call = Weights(), partial(written, op, attributes)
    for name in ("w1", "w2", "w3"):
        w.normal(name, 3, 3, 3, 3)
    block = [*call("e", "d"), "z = Add(e, r)"] if end == "before the Add" else ["e = Add(d, r)", *call("z", "e")]
    pads = "pads = [1, 1, 1, 1]"
    nodes = [f"c = Conv<{pads}>(x, w1)", "r = Relu(c)", f"d = Conv<{pads}>(r, w2)", *block, f"y = Conv<{pads}>(z, w3)"]
    model = quantized(float_model("net", (3, 5, 5), nodes, **w.constants))
    assert StripSkips()(model).modified
    x = np.random.default_rng(0).standard_normal((3, 3, 5, 5)).astype(np.float32)
    assert_exact(model, x)
    functions = [layer.function for layer in read_view(model).layers]
    assert sum(function == function_of(op, attributes) for function in functions) == 1
