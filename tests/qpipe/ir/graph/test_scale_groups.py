"""A factor that all tensors of a group take leaves the network the same function."""

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.ir.graph.curve_units import units_to_nodes
from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.scale_groups import ScaleGroup, input_groups, scale_groups
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.runtime.session import open_session, run_batches
from support.networks import Network, Weights, float_model, load

FLOAT32_SUMS = 1e-5
"""Of the outputs' size: factors that are no powers of two are rounded in each weight."""


def groups_of(model: ir.Model) -> list[ScaleGroup]:
    return scale_groups(group_layers(model.graph))


def outputs(model: ir.Model, x: np.ndarray) -> np.ndarray:
    model = model.clone()
    units_to_nodes(model)
    array: np.ndarray = next(run_batches(open_session(model), [x]))[0]
    return array


def assert_stays(model: ir.Model, x: np.ndarray, *groups: ScaleGroup) -> None:
    """The network is the same function where each group has a factor of its own."""
    before = outputs(model, x)
    for index, group in enumerate(groups):
        group.divide(1.3 + index)
    assert np.abs(outputs(model, x) - before).max() <= FLOAT32_SUMS * np.abs(before).max()


def residual() -> Network:
    """Conv, BatchNormalization, Relu, a block with a skip, pool and classes."""
    n = Network(3, 8, 8)
    stem = n.op("Relu", n.norm(n.conv("x", 3, 6), 6))
    branch = n.conv(n.op("Relu", n.conv(stem, 6, 6, bias=True)), 6, 6, bias=True)
    n.head(n.op("Relu", n.op("Add", branch, stem)), 6)
    return n


def test_a_factor_leaves_the_function() -> None:
    network = residual()
    model = network.model(network.nodes[-1].output[0])
    x = network.inputs(4)
    groups = groups_of(model)
    assert len(groups) == 2
    assert_stays(model, x, *groups)


def test_a_skip_and_what_it_is_added_to_have_one_factor() -> None:
    network = residual()
    groups = groups_of(network.model(network.nodes[-1].output[0]))
    counts = sorted((len(g.writers), len(g.readers)) for g in groups)
    assert counts == [(1, 1), (2, 2)]


CHOICES = {
    "l = Less(a, b) j = Where(l, a, b)": ["a", "b", "j"],
    "l = Greater(a, zero) j = Where(l, a, b)": ["a", "b", "j"],
    "l = Greater(a, third) j = Where(l, b, zero)": ["b", "j"],
    "l = Less(a, third) j = Where(l, a, zero)": [],
    "l = Less(g, a) j = Where(l, a, b)": [],
}


@pytest.mark.parametrize("nodes", CHOICES)
def test_what_is_compared_has_no_factor_of_its_own(nodes: str) -> None:
    w = Weights(0)
    for name in "abg":
        w.normal(f"w{name}", 4, 3, 1, 1)
    w.normal("w3", 5, 4, 1, 1)
    numbers = {"zero": np.float32(0), "third": np.float32(1 / 3)}
    used = w.constants | {name: number for name, number in numbers.items() if name in nodes}
    layers = [f"{name} = Conv(x, w{name})" for name in "abg"]
    model = float_model("net", (3, 5, 6), [*layers, nodes, "y = Conv(j, w3)"], **used)
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32)
    before, groups = outputs(model, x), groups_of(model)
    for group in groups:
        group.divide(2.0)
    np.testing.assert_array_equal(outputs(model, x), before)
    assert sorted(str(value.name) for group in groups for value in group.values) == CHOICES[nodes]


def test_tensors_are_divided() -> None:
    n = Network(3, 8, 8)
    inner = n.op("MaxPool", n.op("Relu", n.conv("x", 3, 4, bias=True)), kernel_shape=[2, 2])
    model = n.model(n.head(inner, 4))
    probe = model.clone()
    (group,) = groups_of(model)[:1]
    group.divide(1.7)
    name = next(node.outputs[0].name for node in probe.graph if node.op_type == "MaxPool")
    x = n.inputs(2)

    def value(of: ir.Model) -> np.ndarray:
        of = of.clone()
        of.graph.outputs[:] = [v for node in of.graph for v in node.outputs if v.name == name]
        return outputs(of, x)

    assert value(model) * 1.7 == pytest.approx(value(probe), rel=FLOAT32_SUMS, abs=FLOAT32_SUMS)


def test_a_batch_norm_alone_writes_and_reads() -> None:
    n = Network(3, 8, 8)
    first = n.conv("x", 3, 4, bias=True)
    both = n.op("Add", first, n.conv("x", 3, 4, bias=True))
    normed = n.op("Relu", n.norm(both, 4))
    model = n.model(n.head(normed, 4))
    x = n.inputs(2)
    before = outputs(model, x)
    groups = groups_of(model)
    assert any(layer.is_batch_norm for group in groups for layer in group.readers)
    assert any(layer.is_batch_norm for group in groups for layer in group.writers)
    for group in groups:
        group.divide(1.6)
    # A BatchNormalization's own rounding comes on top.
    assert np.abs(outputs(model, x) - before).max() <= 10 * FLOAT32_SUMS * np.abs(before).max()


@pytest.mark.parametrize("activation", ["Sigmoid", "HardSwish", "Exp"])
@pytest.mark.parametrize("is_alone", [False, True])
def test_a_curve_takes_one_factor_and_gives_another(activation: str, is_alone: bool) -> None:
    n = Network(3, 8, 8)
    read = n.conv("x", 3, 4, bias=True)
    last = n.op("MaxPool", read, kernel_shape=[2, 2]) if is_alone else read
    given = n.op(activation, last)
    model = n.model(n.conv(given, 4, 4, bias=True))
    groups = groups_of(model)
    assert [[value.name for value in group.values] for group in groups] == [list(dict.fromkeys([read, last])), [given]]
    assert_stays(model, n.inputs(2), *groups)


def test_a_curve_that_is_an_output_keeps_its_unit() -> None:
    n = Network(3, 8, 8)
    given = n.op("Sigmoid", n.conv("x", 3, 4, bias=True))
    model = n.model(n.conv(given, 4, 4, bias=True), given)
    (group,) = groups_of(model)
    assert [value.name for value in group.values] != [given]
    assert_stays(model, n.inputs(2), group)


def test_a_curve_that_stays_float_has_none() -> None:
    n = Network(3, 8, 8)
    model = n.model(n.op("Tanh", n.conv(n.op("Relu", n.conv("x", 3, 4, bias=True)), 4, 4, bias=True)))
    groups = scale_groups(plan_quantization(model.graph).layers)
    assert [[value.name for value in group.values] for group in groups] == [[n.nodes[1].output[0]]]


@pytest.mark.parametrize("is_alone", [False, True])
def test_a_bound_takes_the_factor(is_alone: bool) -> None:
    """Of each Clip its own, where exporters share equal ones."""
    n = Network(3, 8, 8)
    low, high = n.constant(np.float32(0)), n.constant(np.float32(0.5))
    first = n.conv("x", 3, 4, bias=True)
    first = n.op("Clip", n.op("MaxPool", first, kernel_shape=[2, 2]) if is_alone else first, low, high)
    model = n.model(n.conv(n.op("Clip", n.conv(first, 4, 4, bias=True), low, high), 4, 4, bias=True))
    x = n.inputs(2)
    groups = groups_of(model)
    assert [len(group.values) for group in groups] == [1 + 2 * is_alone, 1]
    assert_stays(model, x, *groups)


def test_what_is_an_output_too_has_no_group() -> None:
    n = Network(3, 8, 8)
    inner = n.op("Relu", n.conv("x", 3, 4, bias=True))
    assert len(groups_of(n.model(n.conv(inner, 4, 4)))) == 1
    assert groups_of(n.model(n.nodes[-1].output[0], inner)) == []


def test_an_offset_within_has_no_group() -> None:
    n = Network(3, 8, 8)
    inner = n.op("Relu", n.conv("x", 3, 4, bias=True))
    padded = n.op("Pad", inner, n.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), n.constant(np.float32(1)))
    model = n.model(n.conv(padded, 4, 4, bias=True))
    assert groups_of(model) == []


def test_an_input_that_weights_alone_read_is_divided_as_well() -> None:
    n = Network(3, 8, 8)
    model = n.model(n.conv(n.op("MaxPool", "x", kernel_shape=[2, 2]), 3, 4, bias=True))
    x = n.inputs(2)
    before = outputs(model, x)
    (group,) = input_groups(group_layers(model.graph))
    assert [value.name for value in group.inputs] == ["x"]
    group.divide(1.3)
    after = outputs(model, x / np.float32(1.3))
    assert np.abs(after - before).max() <= FLOAT32_SUMS * np.abs(before).max()


def test_an_input_that_something_else_reads_has_no_group() -> None:
    n = Network(3, 8, 8)
    sum_ = n.op("Add", n.conv("x", 3, 3, bias=True), n.op("CumSum", "x", n.constant(np.array(2))))
    assert input_groups(group_layers(n.model(n.conv(sum_, 3, 4)).graph)) == []


def test_a_layer_norm_takes_a_factor_and_a_constant_of_a_sum_is_divided() -> None:
    n = Network(4, 6)
    stream = n.op("Add", n.op("MatMul", "x", n.constant(n.floats(6, 6))), n.constant(n.floats(1, 4, 6)))
    # An epsilon that counts beside the variance.
    normal = n.op("LayerNormalization", stream, n.constant(n.floats(6)), axis=-1, epsilon=0.3)
    model = n.model(n.op("MatMul", normal, n.constant(n.floats(6, 5))))
    x = n.inputs(4)
    groups = groups_of(model)
    assert [(len(g.writers), len(g.readers), len(g.constants)) for g in groups] == [(1, 1, 1), (1, 1, 0)]
    assert_stays(model, x, *groups)


def test_what_floats_give_has_no_group() -> None:
    """A sum with what an island gives, as tokens' embeddings and their places."""
    n = Network(3, 8, 8)
    island = n.op("CumSum", n.conv("x", 3, 4, bias=True), n.constant(np.array(2)))
    n.head(n.op("Relu", n.op("Add", island, n.conv(island, 4, 4, bias=True))), 4)
    model = n.model(n.nodes[-1].output[0])
    layers = plan_quantization(model.graph).layers
    read = {value.name for layer in layers for value in layer.inputs}
    assert island in read
    grouped = {value.name for group in scale_groups(layers) for value in group.values}
    assert not any(layer.op_type == "Add" and layer.output.name in grouped for layer in layers)


@pytest.mark.parametrize("function", ["LeakyRelu", "PRelu", "Abs"])
def test_lines_that_meet_at_0_pass_a_factor(function: str) -> None:
    n = Network(3, 8, 8)
    slope = [n.constant(np.full((4, 1, 1), 0.25, np.float32))] if function == "PRelu" else []
    inner = n.op(function, n.conv("x", 3, 4, bias=True), *slope)
    alone = n.op(function, n.op("Add", inner, n.conv("x", 3, 4, bias=True)), *slope)
    model = load(n.proto(n.conv(alone, 4, 4, bias=True)))
    x = n.inputs(2)
    (group,) = groups_of(model)
    assert (len(group.writers), len(group.readers)) == (2, 1)
    assert_stays(model, x, group)


GATED = {
    "g = Sigmoid(b) j = Mul(a, g)": ["a", "b", "j"],
    "g = Sigmoid(b) j = Mul(g, a)": ["a", "b", "j"],
    "g = Sigmoid(b) h = Relu(a) i = Mul(h, g) j = Add(i, d)": ["b", "d", "h", "i", "j"],
    "j = Mul(a, b)": ["a", "j"],
    "j = Mul(a, a)": [],
    "g = Relu(a) j = Mul(a, g)": [],
    "j = Div(a, b)": ["a", "j"],
    "g = Sigmoid(b) i = Mul(a, g) j = Sigmoid(i)": ["a", "b", "i", "j"],
    "g = Sigmoid(b) h = Tanh(a) j = Mul(h, g)": ["a", "b", "h", "j"],
}


@pytest.mark.parametrize("nodes", GATED)
def test_a_product_passes_the_factor_of_one_operand(nodes: str) -> None:
    w = Weights(0)
    for name in "abd":
        w.normal(f"w{name}", 4, 3, 1, 1)
    w.normal("w3", 5, 4, 1, 1)
    used = [
        name
        for name in "abd"
        if name in nodes.replace("Add", "").replace("Mul", "").replace("Sigmoid", "").replace("Tanh", "")
    ]
    layers = [f"{name} = Conv(x, w{name})" for name in used]
    model = float_model("net", (3, 5, 6), [*layers, nodes, "y = Conv(j, w3)"],
                        **{k: v for k, v in w.constants.items() if k[1] in [*used, "3"]})  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32)
    before, groups = outputs(model, x), groups_of(model)
    for group in groups:
        group.divide(2.0)
    np.testing.assert_allclose(outputs(model, x), before, rtol=FLOAT32_SUMS, atol=FLOAT32_SUMS)
    assert sorted(str(value.name) for group in groups for value in group.values) == GATED[nodes]


def test_a_product_of_matrices_passes_the_factor_of_values() -> None:
    n = Network(4, 6)
    q, k, v = (n.op("MatMul", "x", n.constant(n.floats(6, 6))) for _ in range(3))
    weights = n.op("Softmax", n.op("MatMul", q, n.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    mixed = n.op("MatMul", weights, v)
    model = n.model(n.op("MatMul", mixed, n.constant(n.floats(6, 5))))
    x = n.inputs(2)
    (group,) = groups_of(model)
    assert [value.name for value in group.values] == [v, mixed]
    assert_stays(model, x, group)


def test_the_other_operand_keeps_its_unit_whatever_else_reads_it() -> None:
    n = Network(3, 8, 8)
    a, b = (n.conv("x", 3, 4, bias=True) for _ in range(2))
    product = n.op("Mul", a, b)
    model = n.model(n.op("Add", n.conv(product, 4, 4, bias=True), n.conv(b, 4, 4, bias=True)))
    (group,) = groups_of(model)
    assert [value.name for value in group.values] == [a, product]
    assert_stays(model, n.inputs(2), group)
