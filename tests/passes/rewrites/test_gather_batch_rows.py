"""Places that are counted through the whole batch, as masks of attention are written."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize import normalize
from passes.rewrites.gather_batch_rows import GatherBatchRows
from passes.rewrites.known_shapes import KnownShapes
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, integers, ops
from support.rewriting import assert_same, assert_stays
from support.run import run_as_written

COUNT = "s = Shape(x) n0 = Gather(s, zero) r = Range(zero, n0, one) n = Unsqueeze(r, behind) "
PLACES = "m = Mul(n, six) p = Add(m, c) "
PAIRS = """k = Shape<start = 0, end = 1>(x) w = Concat<axis = 0>(k, two, one1) e = Expand(n3, w) q = Expand(c3, w)
    p = Concat<axis = 2>(e, q) """
CASES = {
    "a mask": ("N,6", PLACES + "f = Flatten<axis = 2>(x) y = Gather(f, p)", np.arange(6)[None], ["Reshape"]),
    "some of it": ("N,6", PLACES + "f = Reshape(x, flat) y = Gather(f, p)", np.array([[4, 1, 1]]), ["Gather"]),
    "from the end": ("N,6", PLACES + "f = Reshape(x, flat) y = Gather(f, p)", np.array([[5, 0]]), ["Gather"]),
    "of several sides": ("N,2,3", PLACES + "f = Reshape(x, flat) y = Gather(f, p)", np.array([[[4], [1]]]), ["Gather"]),
    "rows": ("N,6,4", PLACES + "f = Reshape(x, rows) y = Gather(f, p)", np.array([[3, 5]]), ["Gather"]),
}  # fmt: skip


def network(sizes: str, nodes: str, places: np.ndarray) -> ir.Model:
    constants = {
        "zero": np.array(0), "one": np.array(1), "six": np.array(6), "c": places, "flat": np.array([-1]),
        "behind": np.arange(1, places.ndim), "rows": np.array([-1, 4]), "seven": np.array(7), "two": np.array(2),
    }  # fmt: skip
    words = (COUNT + nodes).replace(",", " ").replace(")", " ").split()
    used = {name: array for name, array in constants.items() if name in words}
    model = build(f"(float[{sizes}] x) => (float[] y) {{ {COUNT}{nodes} }}", **used)
    KnownShapes()(model)
    return model


@pytest.mark.parametrize(("sizes", "nodes", "places", "left"), CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("batch", [1, 5])
def test_it_hangs_on_no_batch(sizes: str, nodes: str, places: np.ndarray, left: list[str], batch: int) -> None:
    model = network(sizes, nodes, places)
    x = integers(batch, *(int(size) for size in sizes.split(",")[1:]))
    assert_same(GatherBatchRows(), model, x=x)
    RemoveDeadCode()(model)
    assert [op for op in ops(model) if op != "Reshape"] == [op for op in left if op != "Reshape"]


@pytest.mark.parametrize("batch", [1, 5])
def test_pairs(batch: int) -> None:
    """`x[images, places]` as a GatherND."""
    nodes = COUNT.replace("behind", "both") + PAIRS.replace("n3", "n")
    model = build(
        f"(float[N,6,4] x) => (float[N,2,4] y) {{ {nodes} y = GatherND(x, p) }}",
        zero=np.array(0), one=np.array(1), both=np.array([1, 2]), two=np.array([2]), one1=np.array([1]),
        c3=np.array([[[3], [5]]]),
    )  # fmt: skip
    KnownShapes()(model)
    assert_same(GatherBatchRows(), model, x=integers(batch, 6, 4))
    RemoveDeadCode()(model)
    assert ops(model) == ["Reshape", "Gather", "Reshape"]


@pytest.mark.parametrize(
    "nodes",
    [
        PLACES + "o = Add(p, n) f = Reshape(x, flat) y = Gather(f, o)",
        PLACES + "o = Add(p, one) f = Reshape(x, flat) y = Gather(f, o)",
        PLACES + "y = Gather<axis = 1>(x, p)",
        "m = Mul(n, seven) p = Add(m, c) f = Reshape(x, flat) y = Gather(f, p)",
        "m = Mul(n, six) t = Min(n0, two) o = Mul(t, c) p = Add(m, o) f = Reshape(x, flat) y = Gather(f, p)",
    ],
    ids=[
        "another place in each image",
        "beyond the image",
        "along another axis",
        "another number of rows",
        "another place in a single image",
    ],
)
def test_others_stay(nodes: str) -> None:
    places = np.arange(3 if "two" in nodes else 6)[None]
    assert_stays(GatherBatchRows(), network("N,6", nodes, places))


def test_a_place_before_the_image_is_another_images() -> None:
    nodes = PLACES + "f = Reshape(x, flat) y = Gather(f, p)"
    assert_stays(GatherBatchRows(), network("N,6", nodes, np.array([[-1, 0]])))


def test_another_open_size_is_no_batch() -> None:
    nodes = f"{COUNT}{PLACES} f = Reshape(z, flat) y = Gather(f, p)"
    model = build(
        f"(float[N,6] x, float[M,6] z) => (float[] y) {{ {nodes} }}",
        zero=np.array(0), one=np.array(1), six=np.array(6), c=np.arange(6)[None], flat=np.array([-1]),
        behind=np.array([1]),
    )  # fmt: skip
    KnownShapes()(model)
    assert_stays(GatherBatchRows(), model)


def test_a_mask_of_attention_hangs_on_no_size() -> None:
    """As PyTorch writes transformers' masks: a float mask [N, 1, 6, 6] of one of integers [N, 6]."""
    nodes = """t = Cast<to = 9>(mask) s = Shape(x) n0 = Gather(s, zero) r = Range(zero, n0, one)
        n = Unsqueeze(r, behind) m = Mul(n, six) p = Add(m, c) f = Flatten<axis = 2>(t) g = Gather(f, p)
        ps = Shape(p) g1 = Reshape(g, flat) g2 = Reshape(g1, ps) a = And(causal, g2)
        nb = Unsqueeze(n0, ax) w = Concat<axis = 0>(nb, one1, six1, six1) e = Expand(a, w)
        k = Where(e, yes, no) b = Add(x, k) h = Softmax<axis = -1>(b) y = MatMul(h, v)"""
    constants = {
        "zero": np.array(0), "one": np.array(1), "six": np.array(6), "behind": np.array([1, 2, 3]), "ax": np.array([0]),
        "c": np.arange(6).reshape(1, 1, 1, 6), "flat": np.array([-1]), "one1": np.array([1]), "six1": np.array([6]),
        "causal": np.tril(np.ones((1, 1, 6, 6), bool)), "yes": np.float32(0), "no": np.float32(-1e4),
        "v": integers(6, 4, seed=1),
    }  # fmt: skip
    text = f"(float[N,2,6,6] x, int64[N,6] mask) => (float[N,2,6,4] y) {{ {nodes} }}"
    mask = np.tril(np.ones((6, 6), np.int64))[[5, 2, 3]]
    before = run_as_written(build(text, **constants), x=integers(3, 2, 6, 6), mask=mask)
    model = build(text, **constants)
    normalize(model)
    assert not {"Shape", "Range", "Gather", "Expand"} & set(ops(model))
    after = run_as_written(model, x=integers(3, 2, 6, 6), mask=mask)
    for found, expected in zip(after, before, strict=True):
        # The last MatMul may have become a Gemm of rows: float32 sums of six products about 30.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
