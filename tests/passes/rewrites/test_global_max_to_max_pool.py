import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.global_max_to_max_pool import GlobalMaxToMaxPool
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_of_any_image(sizes):
    shape = ",".join(map(str, [2, *sizes]))
    model = build(f"(float[N,{shape}] x) => (float[] y) {{ y = GlobalMaxPool(x) }}")
    assert_same(GlobalMaxToMaxPool(), model, ["MaxPool"], x=integers(3, 2, *sizes))


@pytest.mark.parametrize("shape", ["N,2,H,3", "N,2"])
def test_what_stays(shape):
    rank = "A,B,C,D"[: len(shape)]
    assert_stays(GlobalMaxToMaxPool(), build(f"(float[{shape}] x) => (float[{rank}] y) {{ y = GlobalMaxPool(x) }}"))
