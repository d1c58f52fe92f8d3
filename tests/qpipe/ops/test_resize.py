"""Resize by ONNX's text, through the oracle, the executor and every export; and what is refused of it."""

import math
from fractions import Fraction

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from qpipe.ir.quantized.view import LastLayer, read_view
from qpipe.ops import op_of
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Weights, float_model, load, parse
from support.one_node import agree, node_of
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.random_grids import check
from support.run import assert_exact, run

PLACES = ["half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
FACTORS = [0.25, 0.5, 0.75, 1.5, 2.0, 2.5, 3.0, 4.0]


def coordinate(mode: str, place: int, size: int, new: int, factor: Fraction) -> Fraction:
    """Each line is one of ONNX's text, in fractions."""
    half = Fraction(1, 2)
    match mode:
        case "asymmetric":
            return Fraction(place) / factor
        case "align_corners":
            return Fraction(place * (size - 1), new - 1) if new > 1 else Fraction(0)
        case "pytorch_half_pixel":
            return (place + half) / factor - half if new > 1 else Fraction(0)
        case "half_pixel_symmetric":
            adjustment = new / (factor * size)
            return Fraction(size, 2) * (1 - adjustment) + (place + half) / factor - half
        case _:
            return (place + half) / factor - half


def nearest(mode: str, x: Fraction) -> int:
    down, up = math.floor(x), math.ceil(x)
    match mode:
        case "floor":
            return down
        case "ceil":
            return up
        case "round_prefer_floor":
            return down if x - down <= Fraction(1, 2) else up
        case _:
            return down if x - down < Fraction(1, 2) else up


def attributes(**given_: str) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in given_.items())


@settings(max_examples=150)
@given(
    st.data(), st.sampled_from(PLACES), st.sampled_from(NEAREST), st.lists(st.integers(1, 9), min_size=1, max_size=3)
)
def test_nearest(data: st.DataObject, mode: str, rounding: str, sizes: list[int]) -> None:
    """Every axis by itself: the nearest place to the coordinate, within the image."""
    text = attributes(coordinate_transformation_mode=mode, nearest_mode=rounding)
    by_size = data.draw(st.booleans())
    asked = [data.draw(st.integers(1, 14) if by_size else st.sampled_from(FACTORS)) for _ in sizes]
    x = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-120, 121, (2, 3, *sizes))
    expected = x
    for axis, (size, value) in enumerate(zip(sizes, asked, strict=True), 2):
        new = value if by_size else math.floor(size * value)
        assume(new > 0)
        factor = Fraction(new, size) if by_size else Fraction(value)
        found = [nearest(rounding, coordinate(mode, place, size, new, factor)) for place in range(new)]
        expected = expected.take([min(max(place, 0), size - 1) for place in found], axis)
    if by_size:
        form = f"Resize<{text}>(x, , , k)" if data.draw(st.booleans()) else None
        axes = list(range(2, 2 + len(sizes)))
        text = form or f"Resize<{text}, axes={axes}>(x, , , k)"
        node = node_of(text, x.shape, k=np.array(([2, 3] if form else []) + asked))
    else:
        node = node_of(f"Resize<{text}>(x, , k)", x.shape, k=np.array([1, 1, *asked], np.float32))
    refused = op_of(node).refusal(node)
    if refused is None:
        agree(expected, node, x)
    else:
        assert "float rounding decides" in str(refused)


def test_few_are_left_to_float_rounding() -> None:
    """Whole factors and those through them are certain, whatever the modes."""
    for mode in PLACES:
        for rounding in NEAREST:
            text = attributes(coordinate_transformation_mode=mode, nearest_mode=rounding)
            for factor in (0.25, 0.5, 2, 4):
                node = node_of(
                    f"Resize<{text}>(x, , k)", (1, 1, 12, 20), k=np.array([1, 1, factor, factor], np.float32)
                )
                assert op_of(node).refusal(node) is None
    text = attributes(coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    third = node_of(f"Resize<{text}>(x, , k)", (1, 1, 12, 12), k=np.array([1, 1, 1, 1 / 3], np.float32))
    assert "float rounding decides which pixels it takes along axis 3 (12 to 4)" in str(op_of(third).refusal(third))


@settings(max_examples=150)
@given(st.data(), st.sampled_from(PLACES), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_linear(data: st.DataObject, mode: str, sizes: list[int]) -> None:
    """Along each axis the mean of both neighbours by their distance, of the image continued by its border."""
    factors = [data.draw(st.sampled_from(FACTORS)) for _ in sizes]
    x = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-120, 121, (1, 2, *sizes))
    exact = np.vectorize(Fraction)(x)
    for axis, (size, factor) in enumerate(zip(sizes, factors, strict=True), 2):
        new = math.floor(size * factor)
        assume(new > 0)
        lines = []
        for place in range(new):
            at = coordinate(mode, place, size, new, Fraction(factor))
            low, high = (exact.take([min(max(p, 0), size - 1)], axis) for p in (math.floor(at), math.floor(at) + 1))
            lines.append(low + (high - low) * (at - math.floor(at)))
        exact = np.concatenate(lines, axis)
    text = attributes(mode="linear", coordinate_transformation_mode=mode)
    node = node_of(f"Resize<{text}>(x, , k)", x.shape, k=np.array([1, 1, *factors], np.float32))
    refused = op_of(node).refusal(node)
    if refused is None:
        agree(np.vectorize(round)(exact).astype(np.int64), node, x)
    else:
        assert "are no sums of a few powers of two" in str(refused)


LINEAR = [
    ("half_pixel", 2.0, 7, True), ("half_pixel", 4.0, 7, True), ("half_pixel", 0.5, 8, True),
    ("half_pixel", 3.0, 7, True), ("half_pixel", 3.0, 300, True), ("half_pixel", 3.0, 700, False),
    ("half_pixel", 6.0, 7, False),
    ("asymmetric", 2.0, 7, True), ("asymmetric", 2.5, 8, True), ("pytorch_half_pixel", 2.0, 7, True),
    # (size - 1) / (new - 1) is 1 / 2, then 7 / 15, 31 / 63, and 2 / 6 beside ties.
    ("align_corners", 1.75, 4, True), ("align_corners", 2.0, 8, True), ("align_corners", 2.0, 32, False),
    ("align_corners", 3.5, 2, False), ("half_pixel_symmetric", 2.0, 7, True),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "factor", "size", "has_form"), LINEAR)
def test_what_float32_rounds_rightly(mode: str, factor: float, size: int, has_form: bool) -> None:
    """Dyadic weights, and few thirds and their kin; onnxruntime, an independent runtime, gives the same means."""
    x = np.random.default_rng(0).integers(-127, 128, (2, 3, size, size))
    text = attributes(mode="linear", coordinate_transformation_mode=mode)
    scales = np.array([1, 1, factor, factor], np.float32)
    node = node_of(f"Resize<{text}>(x, , k)", x.shape, k=scales)
    assert (op_of(node).refusal(node) is None) == has_form
    if has_form:
        model = parse(f"(float[2,3,{size},{size}] x) => (float[] y) {{ y = Resize<{text}>(x, , k) }}", k=scales)
        (y,) = run(ir.from_proto(model), x.astype(np.float32))
        agree(np.round(y).astype(np.int64), node, x)


@settings(max_examples=25)
@given(st.data())
def test_all_integers_of_means(data: st.DataObject) -> None:
    draw = data.draw
    dims = draw(st.sampled_from([1, 2, 2, 2]))
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, *[1] * dims)
    w.normal("w2", 5, 4, *[1] * dims)
    text = attributes(mode="linear", coordinate_transformation_mode=draw(st.sampled_from(PLACES)))
    shape = (3, *(draw(st.integers(1, 6)) for _ in range(dims)))
    w.constants["k"] = np.array([1, 1, *(draw(st.sampled_from([0.5, 1, 2, 3])) for _ in range(dims))], np.float32)
    assume(all(size * factor >= 1 for size, factor in zip(shape[1:], w.constants["k"][2:], strict=True)))
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", f"u = Resize<{text}>(r, , k)"]
    nodes += [f"q = {draw(st.sampled_from(['Relu(u)', 'Identity(u)']))}", "y = Conv(q, w2)"]
    model = float_model("net", shape, nodes, **w.constants)
    assume(op_of(model.graph.node(2)).refusal(model.graph.node(2)) is None)
    check(draw, nodes, shape, w)


@settings(max_examples=20)
@given(st.data())
def test_all_integers_of_all_files(data: st.DataObject) -> None:
    draw = data.draw
    w = Weights(draw(st.integers(0, 1000)))
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    text = attributes(
        coordinate_transformation_mode=draw(st.sampled_from(PLACES)), nearest_mode=draw(st.sampled_from(NEAREST))
    )
    w.constants["k"] = np.array([1, 1, *draw(st.tuples(*[st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])] * 2))], np.float32)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", f"u = Resize<{text}>(r, , k)"]
    nodes += [f"q = {draw(st.sampled_from(['Relu(u)', 'Identity(u)']))}", "y = Conv(q, w2)"]
    model = float_model("net", (3, 6, 4), nodes, **w.constants)
    assume(op_of(model.graph.node(2)).refusal(model.graph.node(2)) is None)
    check(draw, nodes, (3, 6, 4), w)


def upsampled(nodes: list[str], shape: tuple[int, ...] = (3, 5, 6), **constants: np.ndarray) -> ir.Model:
    """What becomes u of r, between two convolutions."""
    w = Weights()
    dims = len(shape) - 1
    w.normal("w1", 4, 3, *[3] * dims)
    w.normal("w2", 5, 4, *[1] * dims)
    pads = f"pads={[1] * 2 * dims}"
    nodes = [f"c = Conv<{pads}>(x, w1)", "r = Relu(c)", *nodes, "y = Conv(u, w2)"]
    return float_model("net", shape, nodes, **w.constants, **constants)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("shape", [(3, 7), (3, 5, 6)])
def test_it_trains_and_exports(shape: tuple[int, ...], mode: str) -> None:
    twice = np.array([1, 1, *[2] * (len(shape) - 1)], np.float32)
    model = quantized(upsampled([f'u = Resize<mode="{mode}">(r, , k)'], shape, k=twice))
    executor, x = Executor(model), torch.randn(4, *shape)
    for _ in range(2):
        assert_exact(model, x.numpy(), executor)
        optimizer = torch.optim.SGD(executor.parameters(), 0.05)
        executor.train()(x)[0].square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in executor.parameters() if p.requires_grad)
        optimizer.step()
        executor.eval()
        write_back(executor)
    spec = finalized(model)
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)


def test_behind_the_last_layer_it_stays_float() -> None:
    """There its operand is exact."""
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "d = Conv(r, w2)", "y = Resize(d, , k)"]
    model = quantized(float_model("net", (3, 4, 4), nodes, **w.constants, k=np.array([1, 1, 2, 2], np.float32)))
    view = read_view(model)
    assert [layer.op_type for layer in view.tail] == ["Resize"]
    assert isinstance(view.layers[-1], LastLayer)


@pytest.mark.parametrize(("opset", "op"), [(7, "Upsample"), (9, "Upsample"), (10, "Resize")])
def test_old_files(opset: int, op: str) -> None:
    """What they say is what Resize says now: every pixel twice."""
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("w1", (4, 3, 1, 1)), ("w2", (5, 4, 1, 1)))}
    constants = weights | ({} if opset == 7 else {"k": np.array([1, 1, 2, 2], np.float32)})
    extra = {"scales": [1.0, 1.0, 2.0, 2.0]} if opset == 7 else {}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"]),
        helper.make_node(op, ["c"] if opset == 7 else ["c", "k"], ["u"], mode="nearest", **extra),
        helper.make_node("Conv", ["u", "w2"], ["y"]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "old", [helper.make_tensor_value_info("x", floats, ["N", 3, 4, 6])],
        [helper.make_tensor_value_info("y", floats, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    x = rng.standard_normal((2, 3, 4, 6)).astype(np.float32)
    model = load(proto)
    resize = next(node for node in model.graph if node.op_type == "Resize")
    assert op_of(resize).refusal(resize) is None
    conv = np.einsum("nchw,oc->nohw", x, weights["w1"][:, :, 0, 0])
    expected = np.einsum("nchw,oc->nohw", conv.repeat(2, 2).repeat(2, 3), weights["w2"][:, :, 0, 0])
    np.testing.assert_allclose(run(model, x)[0], expected, rtol=1e-4, atol=1e-5)
    spec = finalized(quantized(model))
    run_gate(spec, to_integer(spec))


@pytest.mark.parametrize(("text", "shape", "constants", "expected"), [
    ('Resize<mode="cubic">(x, , k)', "N,2,4,4", {"k": [1, 1, 2, 2]}, "mode 'cubic' has no integer form"),
    ('Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, , k)', "N,2,4,4", {"k": [1, 1, 2, 2]},
     "coordinates by tf_crop_and_resize"),
    ("Resize(x, , x)", "N,2,4,4", {}, "its sizes are computed"),
    ("Resize(x, , k)", "N,2,4,4", {"k": [2, 1, 1, 1]}, "it resizes the batch"),
    ("Resize(x, , k)", "N,2,H,4", {"k": [1, 1, 1.5, 1]}, "the size of axis 2 is unknown"),
    ("Resize(x, , k)", "N,2,4,4", {"k": [1, 1, 0.125, 1]}, "it leaves nothing of axis 2"),
    ('Resize<mode="linear", antialias=1>(x, , k)', "N,2,4,4", {"k": [1, 1, 0.5, 0.5]}, "its antialias"),
    ('Resize<mode="linear">(x, , k)', "N,2,H,4", {"k": [1, 1, 2, 2]}, "images of unknown size"),
    ('Resize<keep_aspect_ratio_policy="not_larger">(x, , , s)', "N,2,4,4", {"s": [1, 2, 4, 4]}, "aspect ratio"),
])  # fmt: skip
def test_what_is_refused(text: str, shape: str, constants: dict[str, list[float]], expected: str) -> None:
    types = {"k": np.float32, "s": np.int64}
    arrays = {name: np.array(values, types[name]) for name, values in constants.items()}
    graph = f"(float[{shape}] x) => (float[] y) {{ y = {text} }}"
    node = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> g {graph}')).graph.node(0)
    for index, value in enumerate(node.inputs):
        if value is not None and value.name in arrays:
            value.const_value = ir.tensor(arrays[value.name], name=value.name)
            node.replace_input_with(index, value)
    assert expected in str(op_of(node).refusal(node))
