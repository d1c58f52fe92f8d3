import re

import numpy as np
import pytest

from passes.rewrites.recognize_layer_norm import RecognizeLayerNorm
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, ops
from support.rewriting import assert_stays
from support.run import run_as_written

# float32 against float32, in another order: rounding of sums of up to 8 numbers, divided by deviations of about 1.
ROUNDING = 2e-5
MEAN = "m = ReduceMean(x, last)"
VARIANCE = "d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, last)"
DEVIATION = "e = Add(v, eps) s = Sqrt(e)"
SPELLINGS = {
    "PyTorch": f"{MEAN} {VARIANCE} {DEVIATION} n = Div(d, s) w = Mul(n, gamma) y = Add(w, beta)",
    "two Subs": f"{MEAN} d2 = Sub(x, m) {VARIANCE} {DEVIATION} n = Div(d2, s) w = Mul(gamma, n) y = Add(beta, w)",
    "a square by Mul": f"{MEAN} d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) {DEVIATION} n = Div(d, s) "
    "w = Mul(n, gamma) y = Add(w, beta)",
    "Keras": f"{MEAN} {VARIANCE} {DEVIATION} r = Reciprocal(s) g = Mul(r, gamma) a = Mul(x, g) b = Mul(m, g) "
    "c = Sub(beta, b) y = Add(a, c)",
    "a power": f"{MEAN} {VARIANCE} e = Add(v, eps) r = Pow(e, minus_half) n = Mul(d, r) w = Mul(n, gamma) "
    "y = Add(w, beta)",
    "no gamma": f"{MEAN} {VARIANCE} {DEVIATION} y = Div(d, s)",
    "gamma alone": f"{MEAN} {VARIANCE} {DEVIATION} n = Div(d, s) y = Mul(n, gamma)",
}


def parsed(nodes, source="N,3,8", last=(-1,), eps=1e-5, shape=(8,)):
    draw = np.random.default_rng(1)
    constants = {
        "last": np.array(last), "two": np.float32(2), "eps": np.float32(eps), "minus_half": np.float32(-0.5),
        "gamma": draw.uniform(0.5, 2, shape).astype(np.float32), "beta": draw.standard_normal(shape).astype(np.float32),
        "matrix": np.eye(8, 5, dtype=np.float32),
    }  # fmt: skip
    names = nodes.replace(",", " ").replace(")", " ").replace("(", " ").split()
    rank = ",".join("ABCDE"[: source.count(",") + 1])
    return build(
        f"(float[{source}] x) => (float[{rank}] y) {{ {nodes} }}",
        **{name: array for name, array in constants.items() if name in names},
    )


def check(model, expected_ops, *sizes):
    x = (np.random.default_rng(2).standard_normal(sizes) * 2 + 1).astype(np.float32)
    (expected,) = run_as_written(model, x=x)
    assert RecognizeLayerNorm()(model).modified
    RemoveDeadCode()(model)
    assert ops(model) == expected_ops
    np.testing.assert_allclose(run_as_written(model, x=x)[0], expected, rtol=0, atol=ROUNDING)
    assert_stays(RecognizeLayerNorm(), model)


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize(("source", "sizes"), [("N,3,8", (2, 3, 8)), ("1,8", (1, 8)), ("N,T,8", (2, 5, 8))])
def test_along_the_last_axis(nodes, source, sizes):
    check(parsed(nodes, source), ["LayerNormalization"], *sizes)


@pytest.mark.parametrize("name", SPELLINGS)
def test_means_of_sequences_by_a_pool(name):
    """As tf2onnx writes them; over the last two axes of an image it is a pool too."""
    nodes = re.sub(r"ReduceMean\((.), last\)", r"GlobalAveragePool(\1)", SPELLINGS[name])
    check(parsed(nodes, "N,3,8"), ["LayerNormalization"], 2, 3, 8)
    if name == "no gamma":
        check(parsed(nodes, "N,2,3,8"), ["LayerNormalization"], 2, 2, 3, 8)


@pytest.mark.parametrize("name", ["Keras", "PyTorch", "no gamma"])
@pytest.mark.parametrize(
    ("source", "last", "shape", "turns"),
    [
        ("N,4,3,2,3", (1, 2, 4), (1, 1, 1, 2, 3), True),
        ("N,4,3,6", (1, 2), (6,), True),
        ("N,2,3,4", (1, 2, 3), (2, 1, 1), False),
        ("N,2,3,4,2", (2, 3, 4), (2, 3, 1, 1), False),
    ],
)
def test_along_other_axes(name, source, last, shape, turns):
    """As groups of channels are normalized that come last; gamma and beta may change along what is kept."""
    rows = ["Reshape", "LayerNormalization", "Reshape"]
    expected = ["Transpose", *rows, "Transpose"] if turns else rows
    expected += [] if name == "no gamma" else ["Mul", "Add"]
    sizes = [5, *(int(size) for size in source.split(",")[1:])]
    check(parsed(SPELLINGS[name], source, last, shape=shape), expected, *sizes)


def test_along_the_batch_or_rows_too_long_stays():
    assert_stays(RecognizeLayerNorm(), parsed(SPELLINGS["no gamma"], "N,4,3", (0, 1)))
    assert_stays(RecognizeLayerNorm(), parsed(SPELLINGS["no gamma"], "N,50,50,4", (1, 2, 3)))


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
def test_along_the_channels_of_an_image(nodes):
    model = parsed(nodes, "N,8,4,5", last=(1,), shape=(8, 1, 1))
    check(model, ["Transpose", "LayerNormalization", "Transpose"], 2, 8, 4, 5)


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
def test_along_the_last_two_axes(nodes):
    check(parsed(nodes, "N,4,3,8", last=(2, 3), shape=(3, 8)), ["LayerNormalization"], 2, 4, 3, 8)


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-3])
def test_epsilon_and_the_numbers_of_the_constants(eps):
    model = parsed(SPELLINGS["Keras"], eps=eps)
    gamma, beta = (model.graph.initializers[name].const_value.numpy() for name in ("gamma", "beta"))
    assert RecognizeLayerNorm()(model).modified
    (node,) = (node for node in model.graph if node.op_type == "LayerNormalization")
    # float32 of what float64 finds: of the last bit.
    np.testing.assert_allclose(node.inputs[1].const_value.numpy(), gamma, rtol=2.0**-22)
    np.testing.assert_allclose(node.inputs[2].const_value.numpy(), beta, rtol=0, atol=2.0**-22)
    assert node.attributes["epsilon"].as_float() == np.float32(eps)


def test_who_reads_what_is_between_keeps_it():
    model = parsed(f"{SPELLINGS['PyTorch'].replace('y =', 'z =')} y = Add(z, m)")
    assert RecognizeLayerNorm()(model).modified
    RemoveDeadCode()(model)
    assert sorted(ops(model)) == ["Add", "LayerNormalization", "ReduceMean"]


def test_a_gamma_of_each_place_stays_behind():
    check(parsed(SPELLINGS["PyTorch"], shape=(3, 8)), ["LayerNormalization", "Mul", "Add"], 2, 3, 8)


@pytest.mark.parametrize(
    ("nodes", "changes"),
    [
        ("q = Pow(x, two) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) y = Div(x, s)", {}),
        (f"{MEAN} d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, last) s = Sqrt(v) e = Add(s, eps) y = Div(d, e)", {}),
        (SPELLINGS["no gamma"], {"last": (1,), "source": "N,T,8"}),
        (f"{MEAN} y = Sub(x, m)", {}),
    ],
    ids=["no mean taken", "eps beside the root", "an axis of open size", "no deviation"],
)  # fmt: skip
def test_near_misses_stay(nodes, changes):
    assert_stays(RecognizeLayerNorm(), parsed(nodes, **changes))


SQUARES = "q = Pow(x, two) v = ReduceMean(q, last) e = Add(v, eps)"
BY_ROOT = {
    "Llama": f"{SQUARES} s = Sqrt(e) r = Reciprocal(s) n = Mul(x, r) k = Mul(gamma, n)",
    "a quotient": f"{SQUARES} s = Sqrt(e) n = Div(x, s) k = Mul(n, gamma)",
    "a square by Mul": f"{SQUARES} s = Sqrt(e) n = Div(x, s) k = Mul(n, gamma)".replace("Pow(x, two)", "Mul(x, x)"),
    "no gamma": f"{SQUARES} s = Sqrt(e) k = Div(x, s)",
}


@pytest.mark.parametrize("nodes", BY_ROOT.values(), ids=BY_ROOT)
def test_by_the_root_of_the_mean_square(nodes):
    """A mean that is far from 0 stays in it."""
    model = parsed(f"{nodes} y = MatMul(k, matrix)")
    check(model, ["Neg", "Concat", "LayerNormalization", "Slice", "MatMul"], 2, 3, 8)


def test_by_the_root_of_the_mean_square_behind_the_last_weights():
    model = parsed(BY_ROOT["Llama"].replace("k = ", "y = "))
    assert_stays(RecognizeLayerNorm(), model)


def test_a_square_that_is_summed_stays():
    nodes = "q = Pow(x, two) v = ReduceSum(q, last) e = Add(v, eps) s = Sqrt(e) k = Div(x, s)"
    model = parsed(f"{nodes} y = MatMul(k, matrix)")
    assert_stays(RecognizeLayerNorm(), model)


FLAX = (
    "t = ReduceSum<keepdims=0>(x, last) q = Mul(x, x) u = ReduceSum<keepdims=0>(q, last) m = Mul(t, part) "
    "p = Mul(u, part) o = Mul(m, m) d = Sub(p, o) v = Relu(d) w = {keep}(v, {kept}) e = Add(w, eps) s = Sqrt(e) "
    "r = Reciprocal(s) g = Mul(r, gamma) n = {keep}(m, {kept}) c = Sub(x, n) k = Mul(c, g) y = Add(k, beta)"
)


@pytest.mark.parametrize("keep", ["Unsqueeze", "Reshape"])
@pytest.mark.parametrize("batch", ["N", "1"])
@pytest.mark.parametrize("axis", [1, 2])
def test_as_flax_writes_it_of_sums_and_squares(keep, batch, axis):
    """By jax2tf and tf2onnx, as in Google's Magika: 17 nodes, whose shape is put right by a Reshape."""
    length = (512, 8)[axis - 1]
    sizes = np.array([-1, 1, 8] if axis == 1 else [-1, 512, 1])
    rng = np.random.default_rng(1)
    shape = (1, 512, 1) if axis == 1 else (8,)
    constants = {"sizes": sizes} if keep == "Reshape" else {}
    model = build(
        f"(float[{batch},512,8] x) => (float[A,B,C] y) {{ "
        f"{FLAX.format(keep=keep, kept='sizes' if keep == 'Reshape' else 'last')} }}",
        last=np.array([axis]), part=np.float32(1 / length), eps=np.float32(1e-6), **constants,
        gamma=rng.uniform(0.5, 2, shape).astype(np.float32), beta=rng.standard_normal(shape).astype(np.float32),
    )  # fmt: skip
    expected = ["LayerNormalization"] if axis == 2 else ["Transpose", "LayerNormalization", "Transpose"]
    check(model, expected, 1 if batch == "1" else 2, 512, 8)
