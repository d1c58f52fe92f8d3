"""The float tail in torch is what onnxruntime computes, and a gradient comes through it."""

import numpy as np
import pytest
import torch

from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.tasks.task import Ending
from qpipe.train.tail import Tail
from support.networks import parse
from support.run import run_as_written

X = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
PERMUTATION = np.array([2, 0, 1, 5, 4, 3])
SHIFT = np.linspace(-1, 1, 6, dtype=np.float32)
ROUNDED_OTHERWISE = 1e-5
"""Of float32: exponentials and sums in another order."""

TAILS = [
    "y = Identity(x)",
    "y = Neg(x)",
    "y = Softmax(x)",
    "y = Softmax<axis=0>(x)",
    "y = LogSoftmax(x)",
    "y = Sigmoid(x)",
    "y = Tanh(x)",
    "y = Softplus(x)",
    "y = Elu<alpha=0.5>(x)",
    "y = LeakyRelu<alpha=0.2>(x)",
    "y = HardSigmoid(x)",
    "a = Abs(x) b = Add(a, shift2) c = Log(b) y = Exp(c)",
    "a = Mul(x, shift) b = Sub(a, shift) y = Div(b, two)",
    "a = Sqrt(four) y = Mul(x, a)",
    "y = Pow(x, two)",
    "y = Clip(x, low, high)",
    "y = Clip(x, , high)",
    "y = Clip(x)",
    "y = Max(x, shift)",
    "y = Min(x, shift)",
    "y = Mean(x, shift)",
    "y = Sum(x, shift, x)",
    "y = Gather<axis=1>(x, order)",
    "y = Gather<axis=1>(x, last)",
    "a, b = Split<axis=1, num_outputs=2>(x) y = Concat<axis=1>(b, a)",
    "a, b = Split<axis=1>(x, sizes) y = Identity(b)",
    "y = Slice(x, one, five, one, two_ints)",
    "a = Reshape(x, square) b = Transpose<perm=[0, 2, 1]>(a) y = Flatten(b)",
    "a = Shape<start=0, end=1>(x) b = Concat<axis=0>(a, rest) y = Reshape(x, b)",
    "a = Unsqueeze(x, one) b = Expand(a, wide) y = ReduceMean<keepdims=0>(b, one)",
    "a = Unsqueeze(x, one) y = Squeeze(a, one)",
    "y = ReduceMean(x, one)",
    "y = ReduceSum<keepdims=0>(x, one)",
    "y = ReduceMax<keepdims=0>(x, one)",
    "y = ReduceLogSumExp(x, one)",
    "a = ReduceL2(x, one) y = Div(x, a)",
    "y = LpNormalization<axis=1>(x)",
    "y = LayerNormalization(x, shift2, shift)",
    "a = Reshape(x, square) y = LayerNormalization<axis=1, epsilon=0.1>(a, one_float)",
    "a = Reshape(x, square) y = InstanceNormalization(a, pair, pair)",
    "d = Concat<axis=1>(x, x) a = Reshape(d, wide_image) g = GroupNormalization<num_groups=2>(a, each, each) "
    "y = Reshape(g, twelve)",
    "y = Gelu(x)",
    'y = Gelu<approximate="tanh">(x)',
    "y = Selu(x)",
    "y = Celu<alpha=0.5>(x)",
    "y = Mish(x)",
    "y = Softsign(x)",
    "y = Cast<to=1>(x)",
    "y = MatMul(x, matrix)",
    "y = Gemm<alpha=0.5, transB=1>(x, matrix, shift)",
    "a = Greater(shift, low) y = Where(a, x, shift)",
    "a = Reshape(x, image) y = DepthToSpace<blocksize=2>(a)",
    'a = Reshape(x, image) y = DepthToSpace<blocksize=2, mode="CRD">(a)',
    "a = Reshape(x, image) y = GlobalAveragePool(a)",
    'a = Reshape(x, image) y = Resize<mode="linear">(a, , twice)',
    'a = Reshape(x, image) y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(a, , , larger)',
    'a = Reshape(x, image) y = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(a, , twice)',
    "a = Reshape(x, image) y = Resize(a, , twice)",
    'a = Reshape(x, image) y = Resize<mode="cubic">(a, , twice)',
    'a = Reshape(x, image) y = Resize<mode="cubic", coordinate_transformation_mode="align_corners">(a, , , larger)',
    "a = Reshape(x, rows) y = MaxPool<kernel_shape=[1, 2], strides=[1, 2]>(a)",
]


def constants(text: str) -> dict[str, np.ndarray]:
    known = {
        "shift": SHIFT,
        "shift2": np.abs(SHIFT) + 1,
        "two": np.float32(2),
        "four": np.float32(4),
        "low": np.float32(-0.5),
        "high": np.float32(0.5),
        "order": PERMUTATION,
        "last": np.array(-1),
        "sizes": np.array([2, 4]),
        "one": np.array([1]),
        "five": np.array([5]),
        "two_ints": np.array([2]),
        "square": np.array([-1, 2, 3]),
        "rest": np.array([3, 2]),
        "wide": np.array([1, 4, 1]),
        "image": np.array([-1, 4, 1, 1]) if "Depth" in text else np.array([-1, 3, 1, 2]),
        "wide_image": np.array([-1, 4, 3]),
        "pair": np.array([0.5, -2], np.float32),
        "twelve": np.array([-1, 12]),
        "each": np.array([0.5, 1, 2, -1], np.float32),
        "one_float": np.ones((2, 3), np.float32),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "larger": np.array([3, 3, 3, 5]),
        "rows": np.array([-1, 1, 1, 6]),
        "matrix": np.arange(36, dtype=np.float32).reshape(6, 6) / 36,
    }
    words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return {name: array for name, array in known.items() if name in words}


def tail(nodes: str, x: np.ndarray = X, **ending: object) -> tuple[Tail, object]:
    sizes = ", ".join(map(str, x.shape[1:]))
    model = load_model(parse(f"(float[N, {sizes}] x) => (float[] y) {{ {nodes} }}", **constants(nodes)))
    value = model.graph.inputs[0]
    return Tail(model.graph, [value], [value], Ending("y", **{"rows": False, **ending})), model


@pytest.mark.parametrize("nodes", TAILS)
def test_it_computes_what_onnxruntime_computes(nodes: str) -> None:
    x = X if "image" not in nodes or "Depth" not in nodes else np.tile(X, 2)[:, :8]
    function, model = tail(nodes, x)
    given = torch.from_numpy(x).requires_grad_()
    answer = function({model.graph.inputs[0]: given})
    np.testing.assert_allclose(
        answer.detach(), run_as_written(model, x=x)[0], rtol=ROUNDED_OTHERWISE, atol=ROUNDED_OTHERWISE
    )
    answer.square().sum().backward()
    assert given.grad.abs().sum() > 0


@pytest.mark.parametrize("odd", ["cubic_coeff_a=-0.5", "exclude_outside=1"])
def test_a_cubic_resize_that_torch_does_not_have_is_named(odd: str) -> None:
    function, model = tail(f'a = Reshape(x, image) y = Resize<mode="cubic", {odd}>(a, , twice)', X)
    with pytest.raises(ModelError, match="Resize 'y': cubic by half_pixel, and torch has no such resizing"):
        function({model.graph.inputs[0]: torch.from_numpy(X)})


@pytest.mark.parametrize("nodes", ["a = Softmax(x) y = Gather<axis=1>(a, order)", "y = Gather<axis=1>(x, order)"])
def test_a_softmax_is_looked_through(nodes: str) -> None:
    function, model = tail(nodes, skipped=frozenset({"a"}), rows=True)
    np.testing.assert_array_equal(function({model.graph.inputs[0]: torch.from_numpy(X)}), X[:, PERMUTATION])


@pytest.mark.parametrize("op", ["Round", "ArgMax", "Sign", "NonZero"])
def test_what_has_no_gradient_is_named(op: str) -> None:
    node = f"a = {op}(x) y = Cast<to=1>(a)"
    with pytest.raises(ModelError, match=rf"^{op} '.*': between the last layers and 'y', and no gradient passes it$"):
        tail(node)


@pytest.mark.parametrize("nodes", ["y = LpNormalization<axis=1>(x)", "y = ReduceL2(x, one)"])
def test_a_length_of_zero_has_a_gradient(nodes: str) -> None:
    function, model = tail(nodes)
    zeros = torch.zeros(2, 6, requires_grad=True)
    function({model.graph.inputs[0]: zeros}).sum().backward()
    assert torch.isfinite(zeros.grad).all()
