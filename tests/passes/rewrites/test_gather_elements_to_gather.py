"""Scores of distances, as DeBERTa takes them."""

import numpy as np
import pytest

from passes.normalize import normalize
from passes.rewrites.gather_elements_to_gather import GatherElementsToGather
from passes.rewrites.known_shapes import KnownShapes
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, integers, ops
from support.rewriting import assert_same, assert_stays

PLACES = np.array([[[2, 3, 4], [1, 2, 3], [0, 1, -1]]])
EXPANDED = "s = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(s, tail) p = Expand(c, t) "


def network(nodes: str, source: str = "N,3,5", result: str = "N,3,3", tail: tuple[int, ...] = (3, 3)):
    constants = {"c": PLACES, "tail": np.array(tail)}
    words = nodes.replace(",", " ").replace(")", " ").replace("(", " ").split()
    used = {name: array for name, array in constants.items() if name in words}
    model = build(f"(float[{source}] x) => (float[{result}] y) {{ {nodes} }}", **used)
    KnownShapes()(model)
    return model


@pytest.mark.parametrize("batch", [1, 4])
def test_it_is_one_gather(batch: int) -> None:
    model = network(f"{EXPANDED} y = GatherElements<axis = 2>(x, p)")
    assert_same(GatherElementsToGather(), model, x=integers(batch, 3, 5))
    RemoveDeadCode()(model)
    assert ops(model) == ["Reshape", "Gather", "Reshape"]


def test_of_several_heads() -> None:
    model = network(f"{EXPANDED} y = GatherElements<axis = -1>(x, p)", "N,2,3,5", "N,2,3,3", (2, 3, 3))
    assert_same(GatherElementsToGather(), model, x=integers(4, 2, 3, 5))
    normalize(model)
    assert ops(model) == ["Reshape", "Gather", "Reshape"]


@pytest.mark.parametrize(
    ("nodes", "source"),
    [
        (f"{EXPANDED} y = GatherElements<axis = 1>(x, p)", "N,5,3"),
        (f"{EXPANDED} y = GatherElements<axis = 2>(x, p)", "N,4,5"),
        ("y = GatherElements<axis = 2>(x, c)", "N,3,5"),
    ],
    ids=["along another axis", "of the first rows", "of the first image"],
)
def test_others_stay(nodes: str, source: str) -> None:
    result = "1,3,3" if "Expand" not in nodes else "N,3,3"
    assert_stays(GatherElementsToGather(), network(nodes, source, result))
