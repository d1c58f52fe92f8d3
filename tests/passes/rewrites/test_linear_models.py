"""What scikit-learn's exporter writes of linear models: onnxruntime's operators for them compute the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from passes.rewrites.linear_models import LinearModels
from support.networks import build, ops, parse
from support.rewriting import assert_same, assert_stays

ROUNDINGS = 1e-5
"""Of float32: sums of 4 products of up to 4, in another order, and a quotient of two of them."""
OPSETS = '"": 21, "ai.onnx.ml": 3'
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
X[3] = 0
ROW = "[0.5, -1.0, 2.0, 0.25]"
TWO_ROWS = "[0.5, -1.0, 2.0, 0.25, 1.5, 0.75, -0.5, 1.0]"
CALLS = {
    f"Scaler<offset = {ROW}, scale = [2.0, 0.5, 1.5, 3.0]>(x)": ["Sub", "Mul"],
    "Scaler<offset = [0.0], scale = [0.0625]>(x)": ["Mul"],
    f"LinearRegressor<coefficients = {ROW}, intercepts = [0.5]>(x)": ["Gemm"],
    f"LinearRegressor<coefficients = {TWO_ROWS}, intercepts = [0.5, -0.5], targets = 2>(x)": ["Gemm"],
    f"LinearRegressor<coefficients = {TWO_ROWS}, targets = 2>(x)": ["Gemm"],
    f'LinearRegressor<coefficients = {TWO_ROWS}, targets = 2, post_transform = "SOFTMAX">(x)': ["Gemm", "Softmax"],
    'Normalizer<norm = "L1">(x)': ["ReduceL1", "Max", "Div"],
    'Normalizer<norm = "L2">(x)': ["ReduceL2", "Max", "Div"],
    "ArrayFeatureExtractor(x, i)": ["Reshape", "Gather"],
}


def of(call: str, *, head: str = "(float[N,4] x) => (float[N,M] y)"):
    return build(f"{head} {{ y = ai.onnx.ml.{call} }}", opsets=OPSETS, i=np.array([[2, 0, 3]]))


@pytest.mark.parametrize("call", CALLS)
def test_each(call: str) -> None:
    assert_same(LinearModels(), of(call), CALLS[call], atol=ROUNDINGS, x=X)


def test_integers_are_cast() -> None:
    model = of("Scaler<offset = [1.0], scale = [0.5]>(x)", head="(int64[N,4] x) => (float[N,4] y)")
    assert_same(LinearModels(), model, ["Cast", "Sub", "Mul"], x=np.arange(8).reshape(2, 4))


@settings(max_examples=20)
@given(st.data(), st.integers(2, 4), st.sampled_from(["NONE", "SOFTMAX", "LOGISTIC"]), st.booleans())
def test_classifiers(data: st.DataObject, count: int, transform: str, needs_label: bool) -> None:
    """Weights of few values: sums tie, and the first of the largest has it."""
    numbers = data.draw(st.lists(st.integers(-1, 1), min_size=count * 4, max_size=count * 4))
    text = ", ".join(str(float(number)) for number in numbers)
    zeros, classes = ", ".join(["0.0"] * count), ", ".join(str(10 + each) for each in range(count))
    call = (
        f"l, y = ai.onnx.ml.LinearClassifier<coefficients = [{text}], intercepts = [{zeros}], "
        f'classlabels_ints = [{classes}], post_transform = "{transform}">(x)'
    )
    outputs = "int64[N] l, float[N,C] y" if needs_label else "float[N,C] y"
    model = build(f"(float[N,4] x) => ({outputs}) {{ {call} }}", opsets=OPSETS)
    x = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=12, max_size=12)), np.float32).reshape(3, 4)
    assert_same(LinearModels(), model, atol=ROUNDINGS, x=x)
    assert ("ArgMax" in ops(model)) == needs_label


@pytest.mark.parametrize(
    "call",
    [
        'Normalizer<norm = "MAX">(x)',
        f'LinearRegressor<coefficients = {ROW}, post_transform = "PROBIT">(x)',
        "Binarizer<threshold = 0.5>(x)",
    ],
)
def test_others_stay(call: str) -> None:
    assert_stays(LinearModels(), of(call))


@pytest.mark.parametrize("call", [f"LinearRegressor<coefficients = {ROW}>(x)", 'Normalizer<norm = "L2">(x)'])
def test_a_single_row_stays(call: str) -> None:
    assert_stays(LinearModels(), of(call, head="(float[4] x) => (float[A,B] y)"))


def test_a_row_for_two_classes_stays() -> None:
    call = f"l, y = ai.onnx.ml.LinearClassifier<coefficients = {ROW}, intercepts = [0.5], classlabels_ints = [0, 1]>(x)"
    assert_stays(LinearModels(), build(f"(float[N,4] x) => (float[N,C] y) {{ {call} }}", opsets=OPSETS))


PIPELINE = f"""(float[N,4] x) => (int64[M] label, seq(map(int64, float)) scores) {{
    s = ai.onnx.ml.Scaler<offset = {ROW}, scale = [2.0, 0.5, 1.5, 3.0]>(x) c = Cast<to = 1>(s)
    a = MatMul(c, w) b = Add(a, v) r = Relu(b) d = MatMul(r, u) p = Softmax(d)
    m = ArgMax<axis = 1>(p) e = ai.onnx.ml.ArrayFeatureExtractor(k, m) f = Reshape(e, n) label = Cast<to = 7>(f)
    scores = ai.onnx.ml.ZipMap<classlabels_int64s = [7, 8, 9]>(p) }}"""


def pipeline():
    rng = np.random.default_rng(1)
    weights = {name: rng.standard_normal(shape) for name, shape in (("w", (4, 8)), ("v", (1, 8)), ("u", (8, 3)))}
    constants = {name: array.astype(np.float32) for name, array in weights.items()}
    return parse(PIPELINE, opsets=OPSETS, k=np.array([7, 8, 9], np.int32), n=np.array([-1]), **constants)


def test_a_pipeline_is_a_network() -> None:
    """Its map for each sample is a tensor, which is said; its scaler goes into the weights."""
    found = qpipe.inspect(pipeline())
    assert any("output 'scores' is a map for each sample: here it is their values" in note for note in found.notes)
    roles = {node.op: node.role for node in found.nodes}
    assert "Scaler" not in roles
    assert "Sub" not in roles
    assert roles["Gemm"] == "quantized"
    assert [value.name for value in found.outputs] == ["label", "scores"]


def test_a_linear_model_alone_is_a_network() -> None:
    """Its opset of the standard domain says nothing, and need not be there."""
    call = f"y = ai.onnx.ml.LinearRegressor<coefficients = {ROW}, intercepts = [0.5]>(x)"
    found = qpipe.inspect(parse(f"(float[N,4] x) => (float[N,1] y) {{ {call} }}", opsets='"ai.onnx.ml": 1'))
    assert [(node.op, node.role) for node in found.nodes] == [("Gemm", "quantized")]
