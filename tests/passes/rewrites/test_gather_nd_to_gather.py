"""Indexing by several lists, as PyTorch writes it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.normalize import normalize
from passes.rewrites.gather_nd_to_gather import GatherNDToGather
from support.networks import build, ops
from support.rewriting import assert_same, assert_stays

X = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)


def places(data: st.DataObject, sizes: tuple[int, ...]) -> np.ndarray:
    """[..., len(sizes)], from either end."""
    shape = data.draw(st.lists(st.integers(1, 4), max_size=3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    return np.stack([rng.integers(-size, size, shape) for size in sizes], -1)


@settings(max_examples=20)
@given(data=st.data())
@pytest.mark.parametrize(("perm", "sizes"), [("1, 2, 0, 3", (4, 5)), ("2, 3, 0, 1", (5, 6)), ("3, 0, 1, 2", (6,))])
def test_it_is_one_gather(perm: str, sizes: tuple[int, ...], data: st.DataObject) -> None:
    index = places(data, sizes)
    text = f"(float[N,4,5,6] x) => (float[] y) {{ t = Transpose<perm = [{perm}]>(x) y = GatherND(t, index) }}"
    text = text.replace(
        "float[]", "float[" + ",".join(map(str, [*index.shape[:-1]] + ["N"] + ["K"] * (3 - len(sizes)))) + "]"
    )
    model = build(text, index=index)
    assert_same(GatherNDToGather(), model, ["Transpose", "Reshape", "Gather", "Reshape", "Transpose"], x=X)


@pytest.mark.parametrize(
    "nodes",
    [
        "t = Transpose<perm = [1, 3, 0, 2]>(x) y = GatherND(t, index)",
        "t = Transpose<perm = [2, 3, 1, 0]>(x) y = GatherND(t, index)",
        "t = Transpose<perm = [0, 1, 2, 3]>(x) y = GatherND(t, index)",
        "y = GatherND(x, index)",
    ],
    ids=["axes apart", "others turned", "the batch", "of no Transpose"],
)
def test_others_stay(nodes: str) -> None:
    model = build(f"(float[N,4,5,6] x) => (float[2,A,B] y) {{ {nodes} }}", index=np.array([[0, 1], [2, 0]]))
    assert_stays(GatherNDToGather(), model)


def test_the_transposes_cancel() -> None:
    """`z[:, i, j]` of a recommender's products: nothing but integers that are picked is left."""
    nodes = (
        """t = Transpose<perm = [1, 2, 0]>(x) g = GatherND(t, index) p = Transpose<perm = [1, 0]>(g) y = MatMul(p, w)"""
    )
    w = np.ones((3, 2), np.float32)
    model = build(f"(float[N,4,4] x) => (float[N,2] y) {{ {nodes} }}", index=np.array([[1, 0], [2, 0], [2, 1]]), w=w)
    normalize(model)
    assert "Transpose" not in ops(model)
    assert "GatherND" not in ops(model)
