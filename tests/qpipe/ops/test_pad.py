"""Pad by ONNX's text in all modes, through the oracle, the executor and every export; and what is refused of it."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qpipe.ir.quantized.view import RequantizedLayer, read_view
from qpipe.ops import op_of
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, float_model
from support.one_node import GRID, agree, node_of
from support.quantize import finalized, finalized_on_grids, quantized, to_integer, to_qoperator
from support.random_grids import check
from support.run import assert_exact, run

MODES = ["constant", "reflect", "edge", "wrap"]
FILLS = [0.0, 1.5, -0.3, 7.0, -7.0, -np.inf, -3.4028235e38]
DILATED = "MaxPool<kernel_shape=[3, 3], dilations=[2, 2]>(q)"
"""It keeps the Pad before it."""


@settings(max_examples=80)
@given(st.data(), st.sampled_from(MODES), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_the_text(data: st.DataObject, mode: str, sizes: list[int]) -> None:
    """What a place outside of the image has: a number, or a pixel of the image mirrored, at its edge, or repeated."""
    x = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-120, 121, (2, *sizes))
    most = {"constant": lambda n: 3, "reflect": lambda n: n - 1, "edge": lambda n: 3, "wrap": lambda n: n}[mode]
    least = -1 if mode == "constant" else 0
    pads = [data.draw(st.integers(least, max(most(n), 0))) for _ in range(2) for n in sizes]
    fill = data.draw(st.integers(-120, 120)) if mode == "constant" else 0
    expected = x
    for axis, n in enumerate(sizes, 1):
        begin, end = pads[axis - 1], pads[len(sizes) + axis - 1]
        assume(n + begin + end > 0)
        lines = []
        for place in range(-begin, n + end):
            if mode == "reflect":
                place = -place if place < 0 else 2 * (n - 1) - place if place >= n else place
            elif mode == "edge":
                place = min(max(place, 0), n - 1)
            elif mode == "wrap":
                place %= n
            inside = 0 <= place < n
            lines.append(expected.take([place], axis) if inside else np.full_like(expected.take([0], axis), fill))
        expected = np.concatenate(lines, axis)
    axes = list(range(1, 1 + len(sizes)))
    arrays = {"p": np.array(pads), "v": np.float32(fill), "a": np.array(axes)}
    node = node_of(f'Pad<mode="{mode}">(x, p, v, a)', x.shape, **arrays)
    assert op_of(node).refusal(node) is None
    agree(expected, node, x)


def test_a_border_beyond_the_range_widens_it() -> None:
    node = node_of("Pad(x, p, v)", (1, 4), p=np.array([0, 1, 0, 1]), v=np.float32(200))
    found = op_of(node).carried(node, [GRID])
    assert (found.exponent, found.bits, found.is_signed) == (1, 8, True)
    lowest = node_of("Pad(x, p, v)", (1, 4), p=np.array([0, 1, 0, 1]), v=np.float32(-np.inf))
    assert op_of(lowest).carried(lowest, [GRID]) == GRID


@settings(max_examples=25)
@given(st.data(), st.sampled_from(MODES))
def test_all_integers_of_all_files(data: st.DataObject, mode: str) -> None:
    """Also before what keeps or loses the sign that a border brings, and before a maximum that ignores it."""
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    w.constants |= {
        "p": np.array([0, 0, *draw(st.tuples(*[st.integers(0, 2)] * 2)), 0, 0, 1, 2]),
        "v": np.float32(draw(st.sampled_from(FILLS)) if mode == "constant" else 0),
    }
    behind = draw(st.sampled_from([
        DILATED, "Relu(q)", "Identity(q)", "AveragePool<kernel_shape=[2, 2]>(q)",
    ]))  # fmt: skip
    assume(w.constants["v"] > -100 or behind == DILATED)
    nodes = ["c = Conv(x, w1)", f"r = {draw(st.sampled_from(['Relu(c)', 'Identity(c)']))}"]
    nodes += [f'q = Pad<mode="{mode}">(r, p, v)', f"b = {behind}", "y = Conv(b, w2)"]
    check(draw, nodes, (3, 5, 6), w)
    model = float_model("net", (3, 5, 6), nodes, **w.constants)
    spec = finalized_on_grids(model, lambda: draw(st.integers(-2, 2)))
    run_gate(spec, to_qoperator(spec))


@pytest.mark.parametrize(("mode", "fill"), [*[(mode, 0.0) for mode in MODES], ("constant", 2.0), ("constant", -np.inf)])
def test_it_trains_and_exports(mode: str, fill: float) -> None:
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 5, 4, 1, 1)
    w.constants |= {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1]), "v": np.float32(fill)}
    nodes = ["c = Conv<pads=[1, 1, 1, 1]>(x, w1)", "r = Relu(c)", f'u = Pad<mode="{mode}">(r, p, v)']
    nodes += ["m = MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(u)", "y = Conv(m, w2)"]
    model = quantized(float_model("net", (3, 5, 6), nodes, **w.constants))
    executor, x = Executor(model), torch.randn(4, 3, 5, 6)
    assert_exact(model, x.numpy(), executor)
    executor.train()(x)[0].square().mean().backward()
    trained = [p for p in executor.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in trained)
    spec = finalized(model)
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)


def test_a_negative_border_of_positive_numbers_stays_negative() -> None:
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    w.constants |= {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "v": np.float32(-1)}
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "u = Pad(r, p, v)", "a = AveragePool<kernel_shape=[2, 2]>(u)"]
    model = float_model("net", (3, 4, 4), [*nodes, "y = Conv(a, w2)"], **w.constants)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    (expected,) = run(model, x)
    found = quantized(model)
    grids = {
        layer.op_type: layer.quantizer.grid for layer in read_view(found).layers if isinstance(layer, RequantizedLayer)
    }
    assert grids["Pad"].is_signed
    assert grids["AveragePool"].is_signed
    assert (
        np.abs(run(finalized(found), x)[0] - expected).max() < 0.1 * np.abs(expected).max()
    )  # 8 bits, but the corners


@pytest.mark.parametrize(("text", "shape", "arrays", "expected"), [
    ('Pad<mode="reflect">(x, p)', (1, 2, 3), {"p": np.array([0, 0, 3, 0, 0, 0])}, "with pads of 3 on 3 pixels"),
    ('Pad<mode="edge">(x, p)', (1, 2, 3), {"p": np.array([0, 0, -1, 0, 0, 0])}, "mode 'edge' crops"),
    ('Pad<mode="edge">(x, p)', (1, 2, 3), {"p": np.array([1, 0, 0, 0, 0, 0])}, "the size of axis 0"),
    ("Pad(x, p, v)", (1, 3), {"p": np.array([0, 1, 0, 0]), "v": np.float32(np.inf)}, "it fills in inf"),
    ("Pad(x, x)", (1, 3), {}, "its pads are computed"),
])  # fmt: skip
def test_what_is_refused(text: str, shape: tuple[int, ...], arrays: dict[str, np.ndarray], expected: str) -> None:
    node = node_of(text, shape, **arrays)
    assert expected in str(op_of(node).refusal(node))
