"""Places that Keras' Embedding counts from the front are those that a Gather reads anyway."""

import numpy as np
import pytest

from passes.rewrites.plain_places import PlainPlaces
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, ops
from support.rewriting import assert_stays
from support.run import run_as_written

V = 7
CHOICE = "n = Less(x, zero) m = Add(x, all) p = Where(n, m, x)"
PRODUCTS = """f = Cast<to=1>(x) n = Less(f, none) m = Add(x, all) o = Not(n) c = Cast<to=7>(o) a = Mul(x, c)
    d = Cast<to=7>(n) b = Mul(d, m) p = Add(b, a)"""


def network(nodes: str, *, size: int = V, rows: int = V):
    constants = {
        "zero": np.array(0), "none": np.array(0, np.float32), "all": np.array(size),
        "table": np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if name in nodes + "table"}
    return build(f"(int64[N,4] x) => (float[N,4,3] y) {{ {nodes} y = Gather(table, p) }}", **used)


@pytest.mark.parametrize("nodes", [CHOICE, PRODUCTS], ids=["a choice", "products"])
@pytest.mark.parametrize("size", [V, 300_000])
def test_negative_places_are_left_to_the_gather(nodes: str, size: int) -> None:
    x = np.random.default_rng(1).integers(-size, size, (5, 4))
    x[0] = [-size, size - 1, 0, -1]
    before = run_as_written(network(nodes, size=size, rows=size), x=x)
    model = network(nodes, size=size, rows=size)
    assert PlainPlaces()(model).modified
    assert not PlainPlaces()(model).modified
    RemoveDeadCode()(model)
    assert ops(model) == ["Gather"]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], before[0])


@pytest.mark.parametrize(
    ("nodes", "size"),
    [(CHOICE, V - 1), ("n = Less(x, all) m = Add(x, all) p = Where(n, m, x)", V), ("p = Neg(x)", V), (CHOICE, V + 1)],
    ids=["other rows", "all are moved", "turned around", "more rows than there are"],
)
def test_other_places_stay(nodes: str, size: int) -> None:
    assert_stays(PlainPlaces(), network(nodes, size=size))


def test_a_number_that_becomes_a_list_stays() -> None:
    nodes = "n = Less(x, zero) m = Add(x, all) p = Where(n, m, x) y = Gather(table, p)"
    table, limits = np.ones((V, 3), np.float32), {"zero": np.array(0), "all": np.array([V])}
    model = build(f"(int64 x) => (float[1,3] y) {{ {nodes} }}", table=table, **limits)
    assert_stays(PlainPlaces(), model)
