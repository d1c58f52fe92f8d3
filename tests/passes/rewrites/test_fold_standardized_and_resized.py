"""Constants that PyTorch computes in the graph: standardized weights, and embeddings of places in another size."""

import numpy as np
import pytest

from passes.rewrites.fold_constants import FoldConstants
from passes.rewrites.remove_dead_code import RemoveDeadCode
from qpipe.nodes import constant_array
from support.networks import build, integers, ops
from support.run import run_as_written


def test_weights_that_are_standardized() -> None:
    """As PyTorch writes NFNet's and BiT's: by a BatchNormalization of the weight's own mean and variance."""
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) + 1
    model = build(
        """(float[N,3,5,5] x) => (float[] y) {
        r = Reshape(w, flat) s, m2, v2 = BatchNormalization<training_mode = 1, epsilon = 0.001, momentum = 1.0>
            (r, gain, zeros, zeros, ones) k = Reshape(s, kernel) y = Conv(x, k) }""",
        w=w, flat=np.array([1, 4, -1]), gain=integers(4), zeros=np.zeros(4, np.float32), ones=np.ones(4, np.float32),
        kernel=np.array([4, 3, 3, 3]),
    )  # fmt: skip
    FoldConstants()(model)
    RemoveDeadCode()(model)
    assert ops(model) == ["Conv"]
    rows = w.reshape(4, -1).astype(np.float64)
    rows = integers(4)[:, None] * (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-3)
    weight = next(node for node in model.graph).inputs[1]
    assert weight is not None
    # float32's roundings of numbers up to about 300.
    np.testing.assert_allclose(constant_array(weight), rows.reshape(w.shape), rtol=0, atol=1e-3)


def test_a_batch_norm_of_activations_stays() -> None:
    statistics = {name: np.ones(3, np.float32) for name in "gbmv"}
    model = build("(float[N,3,5] x) => (float[N,3,5] y) { y = BatchNormalization(x, g, b, m, v) }", **statistics)
    FoldConstants()(model)
    assert ops(model) == ["BatchNormalization"]


@pytest.mark.parametrize("mode", ["cubic", "linear", "nearest"])
@pytest.mark.parametrize("places", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("sizes", [(7, 3), (4, 8), (4, 5)])
def test_a_constant_that_is_resized(mode: str, places: str, sizes: tuple[int, int]) -> None:
    """As embeddings of places are brought to the size of the image: as onnxruntime does it."""
    nodes = f"""r = Resize<mode = "{mode}", coordinate_transformation_mode = "{places}", nearest_mode = "floor">
        (table, , , sizes) y = Add(x, r)"""
    table = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    text = f"(float[N,3,{sizes[0]},{sizes[1]}] x) => (float[N,3,{sizes[0]},{sizes[1]}] y) {{ {nodes} }}"
    model = build(text, table=table, sizes=np.array([1, 3, *sizes]))
    x = np.zeros((2, 3, *sizes), np.float32)
    expected = run_as_written(model, x=x)[0]
    FoldConstants()(model)
    assert ops(model) == ["Add"]
    # Places and weights in float32 there, of numbers about 1.
    np.testing.assert_allclose(run_as_written(model, x=x)[0], expected, rtol=0, atol=1e-5)


def test_a_resize_that_smooths_stays() -> None:
    nodes = 'r = Resize<mode = "linear", antialias = 1>(table, , , sizes) y = Add(x, r)'
    table = np.ones((1, 3, 4, 4), np.float32)
    model = build(f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ {nodes} }}", table=table, sizes=np.array([1, 3, 2, 2]))
    FoldConstants()(model)
    assert ops(model) == ["Resize", "Add"]


def test_a_resize_whose_size_hangs_on_a_rounding_stays() -> None:
    """3 times 7 / 3, a little less in float32, is 7 to onnxruntime."""
    table, scales = np.ones((1, 1, 3, 3), np.float32), np.array([1, 1, 7 / 3, 1], np.float32)
    nodes = 'r = Resize<mode = "linear">(table, , scales) s = ReduceSum<keepdims = 0>(r) y = Add(x, s)'
    model = build(f"(float[N] x) => (float[N] y) {{ {nodes} }}", table=table, scales=scales)
    FoldConstants()(model)
    assert ops(model) == ["Resize", "ReduceSum", "Add"]
    assert run_as_written(model, x=np.zeros(2, np.float32))[0].tolist() == [21, 21]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("attributes", "c", "w"),
    [
        ("", (1, 6, 5, 4), (8, 6, 1, 1)),
        ("pads = [1, 0, 2, 1], strides = [2, 1]", (2, 3, 6, 5), (4, 3, 3, 2)),
        ("group = 3, dilations = [2, 1], pads = [1, 1, 1, 1]", (1, 6, 5, 5), (6, 2, 3, 3)),
        ("pads = [1, 1]", (1, 4, 7), (3, 4, 3)),
    ],
)
def test_a_convolution_of_a_constant(attributes: str, c: tuple[int, ...], w: tuple[int, ...], bias: bool) -> None:
    """As XCiT's and EdgeNeXt's encodings of places."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("c", c), ("w", w))}
    arrays |= {"b": rng.standard_normal(w[0]).astype(np.float32)} if bias else {}
    operands = ", ".join(arrays)
    text = f"(float x) => (float[] y) {{ r = Conv <{attributes}> ({operands}) y = Add(x, r) }}"
    model = build(text.replace(" <> ", " "), **arrays)
    expected = run_as_written(model, x=np.zeros((), np.float32))[0]
    assert FoldConstants()(model).modified
    assert ops(model) == ["Add"]
    # Sums in another order, of up to 54 products of numbers about 1.
    np.testing.assert_allclose(run_as_written(model, x=np.zeros((), np.float32))[0], expected, rtol=0, atol=1e-4)


def test_what_normalizes_a_constant_image() -> None:
    """As a StyleGAN's learned start is; of a rank that runtimes do not take it stays."""
    text = "(float x) => (float[] y) { r = InstanceNormalization(c, one, zero) y = Add(x, r) }"
    given = {"one": np.ones(3, np.float32), "zero": np.zeros(3, np.float32)}
    model = build(text, c=integers(1, 3, 4, 4).astype(np.float32), **given)
    expected = run_as_written(model, x=np.zeros((), np.float32))[0]
    FoldConstants()(model)
    assert ops(model) == ["Add"]
    np.testing.assert_allclose(run_as_written(model, x=np.zeros((), np.float32))[0], expected, rtol=0, atol=1e-5)
    flat = build(text, c=integers(1, 3).astype(np.float32), **given)
    FoldConstants()(flat)
    assert ops(flat) == ["InstanceNormalization", "Add"]
