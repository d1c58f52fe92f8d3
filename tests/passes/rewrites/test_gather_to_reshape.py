"""A Gather of all elements in order is a Reshape, with the batch fixed and open; any other one stays."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize import normalize
from passes.rewrites.gather_to_reshape import GatherToReshape
from qpipe.nodes import constant_input
from support.networks import build, integers, ops
from support.rewriting import assert_same, assert_stays, network
from support.run import run_as_written

FLAT = "f = Reshape(x, flat)"
FLATTENED = {"flat": np.array([-1])}
# As PyTorch's dynamo exporter writes as_strided of [N, 12, 1, 1].
STRIDED = """(float[N,12,1,1] x) => (float[N,12] y) {
    f = Reshape(x, flat) s = Shape<start=0, end=1>(x) n = Squeeze(s) r = Range(none, n, one) m = Mul(r, STRIDE)
    u = Unsqueeze(m, axes) i = Add(u, within) g = Gather<axis=0>(f, i) y = Flatten(g)
}"""


def strided(stride: int) -> ir.Model:
    return build(
        STRIDED.replace("STRIDE", "stride"), **FLATTENED, none=np.array(0), one=np.array(1), stride=np.array(stride),
        axes=np.array([1, 2, 3]), within=np.arange(12).reshape(1, 12, 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 6), (4, 3, 1), (12,)])
def test_all_in_order_are_a_reshape(shape: tuple[int, ...]) -> None:
    places = np.arange(12).reshape(shape)
    model = network("2,6", f"{FLAT} y = Gather<axis=0>(f, places)", **FLATTENED, places=places)
    normalized = model.clone()
    assert_same(GatherToReshape(), model, ["Reshape", "Reshape"], x=integers(2, 6))
    normalize(normalized)
    assert set(ops(normalized)) <= {"Reshape", "Identity"}


@pytest.mark.parametrize(
    ("shape", "places"),
    [("2,6", np.arange(12)[::-1].copy()), ("2,6", np.arange(11)), ("2,6", np.array([0, *range(11)])), ("12", 0)],
    ids=["backwards", "all but one", "one twice", "one"],
)
def test_others_stay(shape: str, places: np.ndarray) -> None:
    nodes = f"{FLAT} y = Gather<axis=0>(f, places)"
    assert_stays(GatherToReshape(), network(shape, nodes, **FLATTENED, places=np.array(places)))


def test_rows_of_a_table_stay() -> None:
    nodes = "y = Gather<axis=0>(x, places)"
    assert_stays(GatherToReshape(), network("4,3", nodes, places=np.arange(4)))


@pytest.mark.parametrize("batch", [1, 4])
def test_of_an_open_batch(batch: int) -> None:
    x, model = integers(batch, 12, 1, 1), strided(12)
    (expected,) = run_as_written(model, x=x)
    normalize(model)
    assert set(ops(model)) == {"Reshape", "Flatten"}
    targets = [constant_input(node, 1) for node in model.graph if node.op_type == "Reshape"]
    assert [[] if target is None else target.tolist() for target in targets] == [[-1, 12, 1, 1]]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)


def test_overlapping_rows_stay() -> None:
    model = strided(1)
    normalize(model)
    assert "Gather" in ops(model)
