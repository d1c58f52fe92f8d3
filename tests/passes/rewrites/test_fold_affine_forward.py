import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.fold_affine_forward import FoldAffineForward
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network

C = {"c": integers(6, 1, seed=1) + 9, "k": integers(5, seed=2) + 9}


@st.composite
def readers(draw):
    """x's sizes, a layer that reads r, what it may have of an offset, its constants."""
    channels, groups = draw(st.sampled_from([(4, 1), (4, 2), (6, 3)]))
    bias = draw(st.booleans())
    operands = "r, w, b" if bias else "r, w"
    more = {"b": integers(channels, seed=7)} if bias else {}
    kind = draw(st.sampled_from(["Conv", "ConvTranspose", "Gemm", "Gemm transposed", "MatMul"]))
    if kind.startswith("Conv"):
        pad = draw(st.integers(0, 1))
        inside = (channels, 6 // groups) if kind == "Conv" else (6, channels // groups)
        text = f"{kind}<group = {groups}, pads = [{pad}, 0]>({operands})"
        return (2, 6, 5), text, kind == "Conv" and not pad, {"w": integers(*inside, 3, seed=6), **more}
    shape = (channels, 5) if kind.endswith("transposed") else (5, channels)
    if kind == "MatMul":
        return (3, 5), "MatMul(r, w)", True, {"w": integers(*shape, seed=6)}
    text = f"Gemm<transB = {int(kind.endswith('transposed'))}>({operands})"
    return (3, 5), text, True, {"w": integers(*shape, seed=6), **more}


@given(readers(), st.sampled_from(["Mul", "Add", "Sub"]), st.booleans())
def test_before_any_layer(reader, op, is_per_channel):
    sizes, text, takes_offset, constants = reader
    shape = (sizes[1], *[1] * (len(sizes) - 2)) if is_per_channel else ()
    nodes = f"r = {op}(x, c) y = {text}"
    model = network(",".join(map(str, sizes)), nodes, c=integers(*shape, seed=3) + np.float32(9), **constants)
    if op == "Mul" or takes_offset:
        layer = text.split("(")[0].split("<")[0]
        assert_same(
            FoldAffineForward(), model, ["Gemm" if layer == "MatMul" and op != "Mul" else layer], x=integers(*sizes)
        )
    else:
        assert_stays(FoldAffineForward(), model)


def test_a_chain_goes_in_from_its_end():
    model = network("N,5", "a = Mul(x, k) r = Add(a, k) y = MatMul(r, w)", w=integers(5, 4), **C)
    assert_same(FoldAffineForward(), model, ["Gemm"], x=integers(2, 5))


def test_every_reader_takes_it_through_what_moves_numbers():
    model = network(
        "N,6,5",
        "r = Mul(x, c) a = Conv(r, w) f = Flatten(r) g = Gemm(f, v) t = Transpose<perm = [0, 2, 1]>(r) "
        "h = MatMul(t, w2) s = Flatten(a) u = Flatten(h) y = Concat<axis = 1>(s, g, u)",
        w=integers(4, 6, 3), v=integers(30, 2), w2=integers(6, 3), **C,
    )  # fmt: skip
    expected = ["Conv", "Flatten", "Gemm", "Transpose", "MatMul", "Flatten", "Flatten", "Concat"]
    assert_same(FoldAffineForward(), model, expected, x=integers(2, 6, 5))


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        ("N,5", "r = Mul(x, k) a = MatMul(r, w) b = Relu(r) y = Concat<axis = 1>(a, b)"),
        ("N,5", "r = Mul(x, k) e = Erf(r) y = MatMul(e, w)"),
        ("2,5", "r = Mul(x, rows) y = MatMul(r, w)"),
        ("N,3,5", "r = Add(x, k) y = MatMul(r, w)"),
        ("N,5", "r = Mul(x, huge) y = MatMul(r, w)"),
        ("N,6,5", "r = Add(x, c) y = Conv<pads = [1, 1]>(r, w3)"),
        ("N,6,5", 'r = Add(x, c) y = Conv<auto_pad = "SAME_UPPER">(r, w3)'),
        ("4,4", "r = Mul(x, two) y = MatMul(square, r)"),
        ("N,5", "r = Mul(x, k) y = MatMul(r, computed)"),
    ],
    ids=["another reader", "an activation between", "each row", "no place for a bias", "beyond float32", "an offset on "
         "pads", "unknown pads", "the second operand", "a computed weight"],
)  # fmt: skip
def test_what_stays(shape, nodes):
    constants = {"w": integers(5, 4), "w3": integers(2, 6, 3), "rows": integers(2, 1) + 9, "huge": np.float32(3e38)}
    nodes = nodes if "computed" not in nodes else f"computed = DequantizeLinear(q, s) {nodes}"
    more = {"q": np.ones((5, 4), np.int8), "s": np.float32(0.5), "two": np.float32(2), "square": integers(4, 4)}
    assert_stays(FoldAffineForward(), network(shape, nodes, **constants, **more, **C))


def test_a_result_that_is_an_output_stays():
    text = "(float[N,5] x) => (float[] r, float[] y) { r = Mul(x, k) y = MatMul(r, w) }"
    assert_stays(FoldAffineForward(), build(text, w=integers(5, 4), k=C["k"]))
