"""Which tensors get quantizers and of which width; which layers are last; what stays float."""

import numpy as np
import pytest

from qpipe.errors import RecipeError
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.plan import QuantizationPlan, plan_quantization
from support.networks import Network


def plan(net: Network, *outputs: str) -> QuantizationPlan:
    return plan_quantization(net.model(*outputs).graph, weight_bits=4, activation_bits=4)


def bits(found: QuantizationPlan) -> dict[str, int]:
    return {str(value.name): planned.bits for value, planned in found.quantizers.items()}


def weight_bits(found: QuantizationPlan) -> dict[str, int]:
    return {str(node.name): width for node, width in found.weight_bits.items()}


def last(found: QuantizationPlan) -> set[str]:
    return {str(node.name) for node in found.last}


def test_first_and_last_layers_keep_eight_bits() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8, name="first"), name="a")
    x = net.op("Relu", net.norm(net.conv(x, 8, 8, name="second"), 8), name="b")
    x = net.op("Relu", net.conv(x, 8, 8, name="third"), name="c")
    x = net.op("Flatten", net.op("GlobalAveragePool", x, name="pool"))
    found = plan(net, net.op("Gemm", x, net.constant(net.floats(8, 5)), name="fc"))
    assert weight_bits(found) == {"first": 8, "second": 4, "third": 4, "fc": 8}
    # The last ReLU makes the transition; the last layer's int32 have no quantizer.
    assert bits(found) == {"x": 8, "a_y": 4, "b_y": 4, "c_y": 8, "pool_y": 8}
    assert last(found) == {"fc"}
    assert not found.tail
    assert not found.unsupported


@pytest.mark.parametrize("width", [2, 3, 5, 6, 7])
def test_the_convention_of_four_bits_holds_at_every_width(width: int) -> None:
    """First and last weights, the last layer's input and a branch keep 8; the input too."""
    net = Network(3, 8, 8)
    a = net.op("Relu", net.conv("x", 3, 8, name="first"), name="a")
    branch = net.norm(net.conv(a, 8, 8, name="second"), 8)
    b = net.op("Relu", net.op("Add", branch, a), name="b")
    c = net.op("Relu", net.conv(b, 8, 8, name="third"), name="c")
    model = net.model(net.gemm(net.op("Flatten", c), 512, 5))
    found = plan_quantization(model.graph, weight_bits=width, activation_bits=width)
    assert list(weight_bits(found).values()) == [8, width, width, 8]
    assert bits(found) == {"x": 8, "a_y": width, branch: 8, "b_y": width, "c_y": 8}


def test_a_layers_own_widths_go_before_all_others() -> None:
    """Also for the first layer, the last one and a branch; a carrier has its input's."""
    net = Network(3, 8, 8)
    a = net.op("Relu", net.conv("x", 3, 8, name="first"), name="a")
    branch = net.norm(net.conv(a, 8, 8, name="second"), 8)
    b = net.op("MaxPool", net.op("Relu", net.op("Add", branch, a, name="sum"), name="b"), kernel_shape=[2, 2])
    model = net.model(net.head(net.op("Relu", net.conv(b, 8, 8, name="third"), name="c"), 8))
    layers = LayerTable(
        (
            LayerOptions("*", weight_bits=5),
            LayerOptions("first", weight_bits=3, activation_bits=2, weight_clip=2.0),
            LayerOptions("second", activation_bits=6),
            LayerOptions("b", activation_bits=7),
        )
    )
    found = plan_quantization(model.graph, weight_bits=4, activation_bits=4, layers=layers)
    assert list(weight_bits(found).values()) == [3, 5, 5, 5]
    assert bits(found) | {"x": 8, "a_y": 2, branch: 6, "b_y": 7, "c_y": 8} == bits(found)
    assert b not in bits(found)
    assert {node.name: clip for node, clip in found.weight_clips.items()} == {"first": 2.0}


@pytest.mark.parametrize("option", ["weight_bits", "activation_bits"])
def test_widths_that_there_are_not(option: str) -> None:
    net = Network(3, 8, 8)
    with pytest.raises(RecipeError, match=f"{option} is 1, expected 2 to 8"):
        plan_quantization(net.model(net.conv("x", 3, 8)).graph, **{option: 1})


def test_a_last_layer_that_an_activation_and_a_pool_follow() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8, name="first"), name="a")
    x = net.op("Relu", net.conv(x, 8, 8, name="second"), name="b")
    x = net.op("Relu", net.conv(x, 8, 5, (1, 1), name="classes"), name="c")
    found = plan(net, net.op("GlobalAveragePool", x, name="pool"))
    assert weight_bits(found) == {"first": 8, "second": 4, "classes": 8}
    assert bits(found) == {"x": 8, "a_y": 4, "b_y": 8, "c_y": 8, "pool_y": 8}
    assert last(found) == set()


def test_a_last_layer_with_batch_norm_is_quantized() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8, name="first"), name="a")
    y = net.norm(net.conv(x, 8, 8, name="end"), 8)
    found = plan(net, y)
    assert last(found) == set()
    assert bits(found)[y] == 8


def test_branches_before_an_add_are_eight_bit_signed() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8, name="first"), name="a")
    branch = net.norm(net.conv(net.op("Relu", net.conv(x, 8, 8), name="inner"), 8, 8), 8)
    x = net.op("Relu", net.op("Add", branch, x, name="add"), name="b")
    x = net.op("Relu", net.conv(x, 8, 8), name="c")
    found = plan(net, net.head(x, 8))
    assert bits(found) | {branch: 8, "a_y": 4, "inner_y": 4, "b_y": 4} == bits(found)
    planned = {value.name: p.signed for value, p in found.quantizers.items()}
    assert planned | {branch: True, "a_y": False, "b_y": False, "x": None} == planned


def test_what_comes_before_the_first_weights_is_the_input() -> None:
    net = Network(3, 8, 8)
    x = net.norm("x", 3)
    x = net.op("AveragePool", x, kernel_shape=[2, 2], name="shrink")
    x = net.op("Relu", net.conv(x, 3, 8, name="first"), name="a")
    x = net.op("Relu", net.conv(x, 8, 8, name="second"), name="b")
    found = plan(net, net.head(net.op("Relu", net.conv(x, 8, 8)), 8))
    assert weight_bits(found) | {"first": 8, "second": 4} == weight_bits(found)
    assert bits(found) | {"shrink_y": 8, "a_y": 4} == bits(found)


@pytest.mark.parametrize("consumed", [False, True])
def test_a_graph_output_that_is_read_inside_is_no_last_layer(consumed: bool) -> None:
    net = Network(3, 8, 8)
    y = net.conv(net.op("Relu", net.conv("x", 3, 8)), 8, 8, name="middle")
    outputs = [y, net.conv(y, 8, 4, name="end")] if consumed else [y]
    found = plan(net, *outputs)
    assert last(found) == ({"end"} if consumed else {"middle"})
    assert (y in bits(found)) == consumed


def test_reshaping_after_a_last_layer_is_the_tail() -> None:
    net = Network(3, 8, 8)
    x = net.conv(net.op("Relu", net.conv("x", 3, 8)), 8, 4, name="end")
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.constant(np.array([0, -1, 4])))
    found = plan(net, net.op("Softmax", x))
    assert last(found) == {"end"}
    assert [layer.op_type for layer in found.tail] == ["Transpose", "Reshape", "Softmax"]
    assert not found.unsupported


def heads(*others: str) -> tuple[Network, str]:
    """Two levels of a detector as [N, boxes, 4], side by side, with what else the Concat joins."""
    net = Network(3, 8, 8)
    a = net.op("Relu", net.conv("x", 3, 8), name="a")
    parts = []
    for name in ("fine", "coarse"):
        head = net.op("Transpose", net.conv(a, 8, 4, name=name), perm=[0, 2, 3, 1])
        parts.append(net.op("Reshape", head, net.constant(np.array([0, -1, 4])), name=f"{name}_boxes"))
    parts += [net.op("Reshape", net.op(op, a), net.constant(np.array([0, -1, 4])), name=op) for op in others]
    return net, net.op("Concat", *parts, axis=1, name="join")


def test_last_layers_side_by_side_are_the_tail() -> None:
    """Each is as exact as one alone, though a table follows."""
    net, joined = heads()
    found = plan(net, net.op("Sigmoid", net.op("Transpose", joined, perm=[0, 2, 1])))
    assert last(found) == {"fine", "coarse"}
    assert [layer.op_type for layer in found.tail].count("Concat") == 1
    assert bits(found) == {"x": 8, "a_y": 8}


def test_what_else_is_joined_has_a_grid() -> None:
    """What is rounded already gains nothing beside sums that are not."""
    net, joined = heads("GlobalAveragePool")
    found = plan(net, joined)
    assert last(found) == set()
    assert "Concat" in {layer.op_type for layer in found.layers}


def test_sums_side_by_side_that_weights_read_have_a_grid() -> None:
    net, joined = heads()
    found = plan(net, net.op("MatMul", joined, net.constant(net.floats(4, 2)), name="end"), joined)
    assert last(found) == {"end"}
    assert not found.tail


def test_sums_that_an_island_reads_are_int32_and_what_it_gives_has_a_grid() -> None:
    net = Network(3, 8, 8)
    x = net.conv("x", 3, 8, name="before")
    m = net.op("LpNormalization", x, name="gate")
    y = net.op("Erf", net.conv(m, 8, 8, name="after"), name="end")
    found = plan(net, y)
    assert last(found) == {"before", "after"}
    assert [[layer.name for layer in some] for some in (found.islands, found.tail)] == [["gate"], ["end"]]
    assert found.begins == [found.layers[0].inputs[0], found.layers[1].inputs[0]]
    # What the last layer reads keeps 8 bits, whoever gives it; the sign of an island's floats is the data's.
    assert (found.quantizers[found.begins[1]].bits, found.quantizers[found.begins[1]].signed) == (8, None)
    assert x not in bits(found)
    assert not found.unsupported


def test_what_an_island_gives_to_inner_layers_has_their_width() -> None:
    net = Network(3, 8, 8)
    m = net.op("LpNormalization", net.op("Relu", net.conv("x", 3, 8)), name="gate")
    x = net.op("Relu", net.conv(m, 8, 8, name="inner"))
    found = plan(net, net.conv(x, 8, 4, name="end"))
    inner = next(layer for layer in found.layers if layer.name == "inner")
    assert (found.weight_bits[inner.node], found.quantizers[inner.inputs[0]].bits) == (4, 4)


def test_unsupported_only_where_no_layer_has_weights() -> None:
    """Of matrices that are several, and of vectors of two open sizes."""
    net = Network(2, 4, 8)
    net.shape = ("N", 2, "T", 8)
    found = plan(net, net.op("MatMul", "x", net.constant(net.floats(2, 8, 8)), name="several"))
    assert [layer.name for layer in found.unsupported] == ["several"]


def test_bounds_and_widths_of_relu6() -> None:
    net = Network(3, 8, 8)
    y = net.relu6(net.conv("x", 3, 8), 6.0)
    found = plan(net, net.head(net.op("Relu", net.conv(y, 8, 8)), 8))
    planned = {value.name: p for value, p in found.quantizers.items()}
    assert (planned[y].bound, planned[y].signed) == (6.0, False)
