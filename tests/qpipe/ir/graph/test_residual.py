import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.spec import QuantSpec
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.residual import ResidualBlock, find_blocks
from qpipe.ir.quantized.qdq import insert_activation_quantizer
from support.networks import Network
from support.quantize import quantized
from support.zoo.residual import stripped


def stem(net: Network, channels: int = 8) -> str:
    return net.op("Relu", net.norm(net.conv("x", 3, channels), channels))


def main_path(net: Network, x: str, fan_in: int = 8, out: int = 8, **attributes: object) -> str:
    """Two convolutions with BatchNormalization."""
    x = net.op("Relu", net.norm(net.conv(x, fan_in, out, **attributes), out))
    return net.norm(net.conv(x, out, out), out)


def blocks(net: Network, x: str, channels: int = 8) -> list[ResidualBlock]:
    return find_blocks(net.model(net.head(net.op("Relu", x), channels)).graph)


def only(found: list[ResidualBlock]) -> ResidualBlock:
    assert len(found) == 1
    return found[0]


def ops(nodes: tuple[ir.Node, ...]) -> list[str]:
    return [node.op_type for node in nodes]


def slice_and_pad(net: Network, x: str) -> str:
    """Every second pixel, zeros in new channels: FAQ's ResNet-20."""
    ends = [net.constant(np.int64(values)) for values in ([0, 0], [99, 99], [2, 3], [2, 2])]
    return net.op("Pad", net.op("Slice", x, *ends), net.constant(np.int64([0, 4, 0, 0, 0, 4, 0, 0])))


def test_identity() -> None:
    net = Network(3, 8, 8)
    x = stem(net)
    main = main_path(net, x)
    block = only(blocks(net, net.op("Add", x, main)))
    assert (block.start.name, block.skip.name, block.main.name) == (x, x, main)
    assert (block.name, block.add.op_type, block.obstacle) == (block.add.name, "Add", None)
    assert ops(block.main_nodes) == ["Conv", "BatchNormalization", "Relu", "Conv", "BatchNormalization"]
    assert ops(block.layers) == ["Conv", "Conv"]
    assert block.skip_nodes == ()


def test_skips_that_change_the_shape() -> None:
    skips = {
        ("Slice", "Pad"): lambda net, x: slice_and_pad(net, x),
        ("Conv", "BatchNormalization"): lambda net, x: net.norm(net.conv(x, 8, 16, (1, 1), strides=[2, 2]), 16),
        ("Conv",): lambda net, x: net.conv(x, 8, 16, (1, 1), strides=[2, 2], bias=True),
        ("AveragePool", "Conv"): lambda net, x: net.conv(
            net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 8, 16, (1, 1)
        ),
    }
    for expected, make in skips.items():
        net = Network(3, 8, 8)
        x = stem(net)
        added = net.op("Add", make(net, x), main_path(net, x, 8, 16, strides=[2, 2]))
        block = only(blocks(net, added, 16))
        assert (ops(block.skip_nodes), block.obstacle) == (list(expected), None)
        assert block.start.name == x


def test_what_is_no_residual_add() -> None:
    net = Network(3, 8, 8)
    x = stem(net)
    joined = net.op("Concat", x, main_path(net, x), axis=1)
    tied = net.op("Add", net.conv(joined, 16, 8), net.norm(net.conv(joined, 16, 8), 8))
    projections = [net.conv(net.op("Sigmoid", tied), 8, 8, (1, 1)) for _ in range(2)]
    shifted = net.op("Add", net.op("Add", *projections), net.constant(net.floats(1, 8, 1, 1)))
    pools = [net.op(op, shifted, kernel_shape=[2, 2], strides=[2, 2]) for op in ("MaxPool", "AveragePool")]
    assert blocks(net, net.op("Add", *pools)) == []


@pytest.mark.parametrize("order", [1, -1])
def test_a_projection_beside_one_larger_convolution(order: int) -> None:
    """As long as the main path, but what a skip can be: BiReal-Net's downsampling, RepVGG's blocks."""
    net = Network(3, 8, 8)
    x = stem(net)
    paths = [net.norm(net.conv(x, 8, 8), 8), net.norm(net.conv(x, 8, 8, (1, 1)), 8)]
    block = only(blocks(net, net.op("Add", *paths[::order])))
    assert (block.main.name, block.skip.name, block.obstacle) == (*paths, None)


def test_an_add_of_two_inputs_of_the_graph() -> None:
    net = Network(3, 8, 8)
    model = net.model(net.op("Add", net.conv("x", 3, 3), "x"))
    second = ir.Value(name="z", shape=ir.Shape(("N", 3, 8, 8)), type=ir.TensorType(ir.DataType.FLOAT))
    only(find_blocks(model.graph))
    model.graph.inputs.append(second)
    next(node for node in model.graph if node.op_type == "Add").replace_input_with(1, second)
    assert find_blocks(model.graph) == []


def test_a_skip_over_several_blocks_and_blocks_within() -> None:
    net = Network(3, 8, 8)
    first = stem(net)
    second = net.op("Relu", net.op("Add", main_path(net, first), first))
    third = net.op("Add", main_path(net, second), second)
    outer = net.op("Add", third, first)
    found = blocks(net, outer)
    assert [block.start.name for block in found] == [first, second, first]
    assert [len(block.layers) for block in found] == [2, 2, 4]
    assert found[2].main is found[1].add.outputs[0]
    assert set(found[0].main_nodes) | set(found[1].main_nodes) < set(found[2].main_nodes)


def test_what_can_not_be_stripped_is_found_and_says_why() -> None:
    def obstacle(add: object, also: object = None) -> str:
        net = Network(3, 8, 8)
        x = stem(net)
        added = add(net, x)
        outputs = [net.head(net.op("Relu", added), 8), *([also(net)] if also else [])]
        return str(only(find_blocks(net.model(*outputs).graph)).obstacle)

    expected = "expected nothing but Slice, Pad, pooling, 1x1 Conv and BatchNormalization"
    assert obstacle(lambda n, x: n.op("Add", n.op("Sigmoid", x, name="s"), main_path(n, x))) == (
        f"its skip has Sigmoid 's', {expected}"
    )
    assert obstacle(lambda n, x: n.op("Add", n.conv(x, 8, 8), main_path(n, x))).startswith("its skip has Conv 'conv")
    name = "batchnormalization7_y"

    def plain(n: Network, x: str) -> str:
        end = main_path(n, x)
        assert end == name
        return n.op("Add", end, x)

    assert obstacle(plain, lambda n: n.op("Sigmoid", name, name="other")) == (
        "Sigmoid 'other' reads the end of its main path too, expected that only the Add does"
    )
    assert obstacle(plain, lambda n: name) == (
        f"its main path ends in '{name}', a graph output, expected that only the Add reads it"
    )
    pooled = obstacle(lambda n, x: n.op("Add", n.op("GlobalAveragePool", main_path(n, x)), x))
    assert pooled == "its main path gives [?, 8, 1, 1], expected [?, 8, 8, 8], which is what the Add's readers get"
    assert obstacle(lambda n, x: n.op("Add", n.op("GlobalAveragePool", x), main_path(n, x))) == "None"


def test_quantizers_are_on_the_paths() -> None:
    net = Network(3, 8, 8)
    x = stem(net)
    added = net.op("Add", net.norm(net.conv(x, 8, 8, (1, 1)), 8), main_path(net, x))
    model = quantized(net.model(net.head(net.op("Relu", added), 8)), net.inputs())
    block = only(find_blocks(model.graph))
    quantizer = ["QuantizeLinear", "DequantizeLinear"]
    assert block.start.name == f"{x}_dequantized"
    assert ops(block.skip_nodes) == ["Conv", "BatchNormalization", *quantizer]
    assert ops(block.main_nodes) == [
        "Conv", "BatchNormalization", "Relu", "QuantizeLinear", "DequantizeLinear", "Conv", "BatchNormalization",
        *quantizer,
    ]  # fmt: skip
    assert (block.main.producer(), block.obstacle) == (block.main_nodes[-1], None)


def test_a_requantization_belongs_to_its_path() -> None:
    net = Network(3, 8, 8)
    x = stem(net)
    model = quantized(net.model(net.head(net.op("Relu", net.op("Add", main_path(net, x), x)), 8)), net.inputs())
    before = only(find_blocks(model.graph))
    insert_activation_quantizer(
        model.graph, before.start, QuantSpec.unsigned(2, -1), only=[before.layers[0]], suffix="n"
    )
    block = only(find_blocks(model.graph))
    assert block.start is block.skip is before.start
    assert ops(block.main_nodes[:4]) == ["QuantizeLinear", "Clip", "DequantizeLinear", "Conv"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("/layer1/layer1.0/conv1/Conv", "/layer1/layer1.0/conv2/Conv"), "layer1.0"),
        (("/net/layer1/layer1.0/a/a.0/Conv", "/net/layer1/layer1.0/a/a.1/Conv"), "layer1.0.a"),
        (("/stage1/block/conv1/Conv", "/stage1/block/conv2/Conv"), "stage1.block"),
        (("/features/f.2/conv/conv.0/conv.0.0/Conv", "/features/f.2/conv/conv.2/Conv"), "f.2.conv"),
        (("node_conv2d_1", "node_conv2d_2"), "the_add"),
        (("/stem/conv1/Conv", "/stem/conv2/Conv"), "the_add"),  # the first layer's too
        (("/layer1/conv/Conv", "/layer2/conv/Conv"), "the_add"),
    ],
)
def test_names_of_nodes(names: tuple[str, str], expected: str) -> None:
    net = Network(3, 8, 8)
    x = stem(net)
    model = net.model(net.head(net.op("Relu", net.op("Add", main_path(net, x), x, name="the_add")), 8))
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    for node, name in zip(convolutions, ("/stem/conv0/Conv", *names), strict=True):
        node.name = name
    assert only(find_blocks(model.graph)).name == expected
    quantized(model, net.inputs())
    assert only(find_blocks(model.graph)).name == expected


def test_names_of_parameters() -> None:
    """The dynamo exporter's; a quantized weight is called after its node, BatchNormalization's keep their names."""
    net = Network(3, 8, 8)
    x = stem(net)
    model = net.model(net.head(net.op("Relu", net.op("Add", main_path(net, x), x)), 8))
    parents = iter(("conv1", "layer1.0.conv1", "layer1.0.conv2"))
    for node in model.graph:
        if node.op_type == "Conv":
            parent = next(parents)
            node.inputs[1].name = f"{parent}.weight"
            for value, part in zip(node.outputs[0].consumers()[0].inputs[1:5], "gbmv", strict=True):
                value.name = f"{parent.replace('conv', 'bn')}.{part}"
    assert only(find_blocks(model.graph)).name == "layer1.0"
    quantized(model, net.inputs())
    assert only(find_blocks(model.graph)).name == "layer1.0"


def test_in_pre_activation_order_the_next_blocks_parameters_are_not_a_convolutions() -> None:
    """The BatchNormalization behind the stem, and behind a block without its skip, is the next block's."""
    net = Network(3, 8, 8)
    x = net.conv("x", 3, 8)
    for _ in range(2):
        y = net.conv(net.op("Relu", net.norm(x, 8)), 8, 8)
        x = net.op("Add", net.conv(net.op("Relu", net.norm(y, 8)), 8, 8), x)
    model = net.model(net.head(net.op("Relu", net.norm(x, 8)), 8))
    modules = iter(["stem", *(f"layer1.{block}.{kind}{i}" for block in "01" for i in "12" for kind in ("bn", "conv"))])
    for node in model.graph:
        kind = {"Conv": 1, "BatchNormalization": 4}.get(node.op_type, 0)
        module = next(modules, "last") if kind else ""
        for value in node.inputs[1 : kind + 1]:
            value.name = f"{module}.{value.name}"
    assert [block.name for block in find_blocks(model.graph)] == ["layer1.0", "layer1.1"]
    quantized(model, net.inputs())
    assert [block.name for block in find_blocks(model.graph)] == ["layer1.0", "layer1.1"]
    stripped(model, "layer1.0")
    assert [block.name for block in find_blocks(model.graph)] == ["layer1.1"]


def test_one_name_for_two_blocks_is_none() -> None:
    net = Network(3, 8, 8)
    x = stem(net)
    inner = net.op("Add", main_path(net, x), x, name="inner")
    model = net.model(net.head(net.op("Relu", net.op("Add", inner, x, name="outer")), 8))
    for number, node in enumerate(n for n in model.graph if n.op_type == "Conv"):
        node.name = f"/block/conv{number}/Conv" if number else "/conv/Conv"
    assert [block.name for block in find_blocks(model.graph)] == ["inner", "outer"]


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [("layer3.0", "layer3.*", True), ("layer3.0", "LAYER3.*", False), ("model/add/add", "add/*", True),
     ("model/add/add", "odel/*", False), ("layer3.0", "layer3", False), ("a", "*", True)],
)  # fmt: skip
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    node, value = ir.node("Add", []), ir.Value(name="v")
    assert ResidualBlock(name, node, value, value, value, (), ()).matches(pattern) is expected


@given(st.data())
def test_the_start_is_the_nearest_common_dominator(data: st.DataObject) -> None:
    """On random graphs of convolutions and Adds, against the definition: without it no path from the input is left."""
    net = Network(2, 4, 4)
    values = ["x"]
    for _ in range(data.draw(st.integers(3, 12))):
        picks = st.sampled_from(values)
        if data.draw(st.booleans()):
            values.append(net.op("Add", data.draw(picks), data.draw(picks)))
        else:
            values.append(net.conv(data.draw(picks), 2, 2, (1, 1)))
    proto = net.proto(values[-1])
    graph = ir.from_proto(proto).graph
    by_name = {v.name: v for node in graph for v in node.outputs} | {"x": graph.inputs[0]}

    def reaches(value: ir.Value, without: ir.Value) -> bool:
        node = value.producer()
        if value is without or node is None:
            return value is not without
        return any(reaches(v, without) for v in node.inputs if v is not None and not v.is_initializer())

    found = {block.add: block for block in find_blocks(graph)}
    for node in (node for node in graph if node.op_type == "Add"):
        operands = list(node.inputs)
        joint = [name for name in values if not any(reaches(v, by_name[name]) for v in operands)]
        if node in found:
            block = found[node]
            assert block.start.name == joint[-1]
            assert all(Layer(n).is_weighted for n in block.layers)
            assert {block.main, block.skip} == set(operands)
