"""Rows of images that tokens say, as a text's last token is taken."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize import normalize
from passes.rewrites.known_shapes import KnownShapes
from passes.rewrites.pick_by_masks import PickByMasks
from support.networks import build, integers, ops
from support.rewriting import assert_same, assert_stays

TOKENS = "(float[N,6,4] x, int64[N,6] ids) => (float[] y) {{ {} }}"
COUNT = "s = Shape(x) n0 = Gather(s, zero) r = Range(zero, n0, one) "
PLACE = "c = ArgMax<axis = -1, keepdims = 0>(ids) "
PAIR = COUNT + PLACE + "r1 = Unsqueeze(r, last) c1 = Unsqueeze(c, last) p = Concat<axis = -1>(r1, c1) "
CASES = {
    "rows": COUNT + PLACE + "n = Mul(r, six) p = Add(c, n) f = Reshape(x, rows) y = Gather(f, p)",
    "rows, counted first": COUNT + PLACE + "n = Mul(r, six) p = Add(n, c) f = Flatten<axis = 2>(x) y = Gather(f, p)",
    "pairs": PAIR + "y = GatherND(x, p)",
    "one each": PLACE + "p = Unsqueeze(c, last) y = GatherND<batch_dims = 1>(x, p)",
    "elements": PLACE
    + """u = Unsqueeze(c, both) k = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(k, one1, four1)
        e = Expand(u, t) y = GatherElements<axis = 1>(x, e)""",
    "from the end": PLACE + "d = Sub(c, six) p = Unsqueeze(d, last) y = GatherND<batch_dims = 1>(x, p)",
    "several": """v, c = TopK<axis = 1>(ids, two1) p = Unsqueeze(c, last) y = GatherND<batch_dims = 1>(x, p)""",
}


def network(nodes: str, text: str = TOKENS) -> ir.Model:
    constants = {
        "zero": np.array(0), "one": np.array(1), "six": np.array(6), "rows": np.array([-1, 4]), "last": np.array([-1]),
        "both": np.array([1, 2]), "one1": np.array([1]), "four1": np.array([4]), "two1": np.array([2]),
        "w": integers(4, 4),
    }  # fmt: skip
    words = nodes.replace(",", " ").replace(")", " ").replace("(", " ").split()
    model = build(text.format(nodes), **{name: array for name, array in constants.items() if name in words})
    KnownShapes()(model)
    return model


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("nodes", CASES.values(), ids=list(CASES))
def test_it_is_a_product(nodes: str, batch: int) -> None:
    model = network(nodes)
    rng = np.random.default_rng(batch)
    ids = rng.permuted(np.tile(np.arange(6), (batch, 1)), axis=1)
    x = rng.standard_normal((batch, 6, 4)).astype(np.float32)
    assert_same(PickByMasks(), model, x=x, ids=ids)
    assert "MatMul" in ops(model)
    assert not {"Gather", "GatherND", "GatherElements"} & {node.op_type for node in model.graph if node.name == "y"}


@pytest.mark.parametrize(
    "nodes",
    [
        COUNT + PLACE + "n = Mul(r, one) p = Add(c, n) f = Reshape(x, rows) y = Gather(f, p)",
        PAIR.replace("(r1, c1)", "(c1, r1)") + "y = GatherND(x, p)",
        "v, c = TopK<axis = 1>(x, two1) y = GatherElements<axis = 1>(x, c)",
        "a = ReduceSum<keepdims = 0>(x, two1) c = ArgMax<axis = -1, keepdims = 0>(a) p = Unsqueeze(c, last) "
        "y = GatherND<batch_dims = 1>(x, p)",
    ],
    ids=["another image's", "places first", "others for each channel", "places that activations say"],
)
def test_what_stays(nodes: str) -> None:
    assert_stays(PickByMasks(), network(nodes))


def test_nothing_stays_float() -> None:
    """Through `normalize`: the mask is looked up, and the rest are products."""
    model = network("h = MatMul(x, w) " + CASES["pairs"].replace("(x, p)", "(h, p)").replace("Shape(x)", "Shape(h)"))
    normalize(model)
    assert "GatherND" not in ops(model)
