"""Which factors must be equal, reciprocal or one; and that each op passes on what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.shared_channels import factor_graph
from qpipe.ops.factors import Factors
from support.networks import Network
from support.run import run

EDGES = st.lists(st.tuples(st.integers(1, 9), st.integers(-9, 9)), max_size=12)


@given(EDGES)
def test_factors_are_those_that_the_equations_leave(edges: list[tuple[int, int]]) -> None:
    """Of any equations `f[a] = f[b]`, or `1 / f[b]`, or 1: free factors are drawn, and all equations hold."""
    book = Factors()
    book.new(9)
    for a, b in edges:
        book.unite(np.array([a]), np.array([b]))
    roots = book.roots(np.arange(10))
    exponents = np.random.default_rng(0).standard_normal(10)
    found = [np.sign(root) * exponents[abs(root)] for root in roots]
    assert all(found[a] == np.sign(b) * found[abs(b)] for a, b in edges)
    # None is fixed without a reason: one that nothing is said of is free.
    assert all(roots[i] == i for i in range(1, 10) if not any(i in {a, abs(b)} for a, b in edges))


def test_what_is_its_own_reciprocal_stays() -> None:
    book = Factors()
    (a, b) = book.new(2)
    book.unite(np.array([a]), np.array([b]))
    book.unite(np.array([a]), np.array([-b]))
    assert book.is_one(np.array([a, b]))


def attention(n: Network, *, fused: bool = False) -> str:
    """Two heads of 3 on 4 tokens of 6 channels; keys are transposed for the product."""
    apart, together = n.constant(np.array([0, 4, 2, 3])), n.constant(np.array([0, 4, 6]))
    if fused:
        both = n.op("MatMul", "x", n.constant(n.floats(6, 18)))
        axis = n.constant(np.array([2]))
        bounds = [n.constant(np.array([6 * i])) for i in range(4)]
        parts = [n.op("Slice", both, bounds[i], bounds[i + 1], axis) for i in range(3)]
    else:
        parts = [n.op("MatMul", "x", n.constant(n.floats(6, 6))) for _ in range(3)]
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    q, k, v = (n.op("Transpose", n.op("Reshape", p, apart), perm=o) for p, o in zip(parts, orders, strict=True))
    mixed = n.op("MatMul", n.op("Softmax", n.op("MatMul", q, k), axis=-1), v)
    rows = n.op("Reshape", n.op("Transpose", mixed, perm=[0, 2, 1, 3]), together)
    return n.op("MatMul", rows, n.constant(n.floats(6, 5)))


def fused_attention(n: Network) -> str:
    return attention(n, fused=True)


def sequence(n: Network) -> str:
    """A stream of BatchNormalizations, with a place of its own for the first token, and a mean over tokens."""

    def norm(x: str) -> str:
        turned = n.norm(n.op("Transpose", x, perm=[0, 2, 1]), 6)
        return n.op("Transpose", turned, perm=[0, 2, 1])

    stream = n.op("Add", n.op("MatMul", "x", n.constant(n.floats(6, 6))), n.constant(n.floats(1, 4, 6)))
    stream = n.op("Add", n.op("MatMul", norm(stream), n.constant(n.floats(6, 6))), stream)
    mean = n.op("ReduceMean", stream, n.constant(np.array([1])), keepdims=0)
    return n.gemm(n.norm(mean, 6), 6, 5)


def normalized(n: Network) -> str:
    """LayerNormalization, whose gamma and beta take factors."""
    normal = n.op("LayerNormalization", "x", n.constant(n.floats(6)), n.constant(n.floats(6)), axis=-1)
    return n.op("MatMul", normal, n.constant(n.floats(6, 5)))


def images(n: Network) -> str:
    """Groups, depthwise, pools, Pad, Concat, Slice, Sub, what makes rows of images."""
    x = n.op("Reshape", "x", n.constant(np.array([0, 1, 4, 6])))
    a = n.op("Relu", n.norm(n.conv(x, 1, 4), 4))
    b = n.op("Relu", n.conv(x, 1, 4, bias=True))
    both = n.op("Concat", n.op("Sub", a, b), n.op("MaxPool", b, kernel_shape=[1, 1]), axis=1)
    both = n.conv(both, 8, 8, groups=4)
    both = n.op("Relu", n.conv(n.op("Pad", both, n.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))), 8, 8, groups=8))
    half = n.op("Slice", both, *(n.constant(np.array([i])) for i in (2, 6, 1)))
    return n.gemm(n.op("Flatten", n.op("AveragePool", half, kernel_shape=[2, 2])), 4 * 5 * 7, 5)


BUILDS = [attention, fused_attention, sequence, normalized, images]


@pytest.mark.parametrize("build", BUILDS)
def test_any_factors_leave_the_function_and_divide_the_tensors(build: Callable[[Network], str]) -> None:
    """Powers of two, so that not a bit changes."""
    n = Network(4, 6, seed=3)
    model, inputs = n.model(build(n)), n.inputs(3)
    graph = factor_graph(model.graph, group_layers(model.graph))
    tensors = {str(value.name): factors for shared in graph.shared for value, factors in shared.tensors.items()}
    assert tensors
    watched = model.clone()
    watched.graph.outputs.extend(v for node in watched.graph for v in node.outputs if v.name in tensors)
    rng, before = np.random.default_rng(0), run(watched, inputs, optimize=False)
    ratios = {int(i): 2.0 ** rng.integers(-5, 6) for shared in graph.shared for i in shared.factors}
    graph.multiply(ratios)
    watched = model.clone()
    watched.graph.outputs.extend(v for node in watched.graph for v in node.outputs if v.name in tensors)
    after = run(watched, inputs, optimize=False)
    np.testing.assert_array_equal(after[0], before[0])
    for value, old, new in zip(watched.graph.outputs[1:], before[1:], after[1:], strict=True):
        factors = tensors[str(value.name)]
        divided = np.array([ratios[abs(i)] ** np.sign(i) for i in factors.reshape(-1).tolist()])
        np.testing.assert_array_equal(new, old / divided.reshape(factors.shape))


def test_queries_and_keys_have_reciprocal_factors() -> None:
    n = Network(4, 6)
    model = n.model(attention(n))
    shared = factor_graph(model.graph, group_layers(model.graph)).shared
    (pair,) = (group for group in shared if group.is_free)
    q, k = pair.tensors.values()
    np.testing.assert_array_equal(q.reshape(-1), -k.reshape(-1))


def gate(n: Network) -> str:
    """What multiplies, what is bounded, and an output keep their numbers."""
    a = n.op("MatMul", "x", n.constant(n.floats(6, 6)))
    b = n.op("Sigmoid", n.op("MatMul", "x", n.constant(n.floats(6, 6))))
    return n.op("MatMul", n.op("Mul", a, b), n.constant(n.floats(6, 5)))


def bounded(n: Network) -> str:
    return n.op("MatMul", n.relu6(n.op("MatMul", "x", n.constant(n.floats(6, 6)))), n.constant(n.floats(6, 5)))


@pytest.mark.parametrize("build", [gate, bounded])
def test_what_passes_no_factor_on(build: Callable[[Network], str]) -> None:
    n = Network(4, 6)
    model: ir.Model = n.model(build(n))
    assert not factor_graph(model.graph, group_layers(model.graph)).shared
