import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import ModelError
from qpipe.nodes import (
    Window,
    constant_array,
    constant_input,
    describe,
    exponent_of,
    float_attribute,
    group_count,
    input_value,
    int_attribute,
    ints_attribute,
    rank,
    require_constant,
    require_input,
    static_shape,
    string_attribute,
    window,
)


def value(name="x", shape=None):
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=None if shape is None else ir.Shape(shape))


def initializer(array, name="w"):
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)


@pytest.mark.parametrize(("group", "shape", "right"), [
    (2, [4, 3, 1, 1], True), (1, None, True), (0, None, False), (-1, [4, 3], False), (3, [4, 3, 1, 1], False),
])  # fmt: skip
def test_groups_divide_the_channels(group, shape, right):
    node = ir.node("Conv", [value(), value("w", shape)], {"group": group}, name="n")
    if right:
        assert group_count(node) == group
        return
    with pytest.raises(ModelError, match=f"Conv 'n': group is {group}, expected a divisor"):
        group_count(node)


def test_attributes_and_their_defaults():
    node = ir.node("Op", [value()], {"i": 3, "f": 0.5, "s": "text", "l": [1, 2]}, name="n")
    assert (int_attribute(node, "i", 0), int_attribute(node, "none", 7)) == (3, 7)
    assert (float_attribute(node, "f", 0.0), float_attribute(node, "none", 7.0)) == (0.5, 7.0)
    assert (string_attribute(node, "s", ""), string_attribute(node, "none", "d")) == ("text", "d")
    assert (ints_attribute(node, "l", ()), ints_attribute(node, "none", [9])) == ((1, 2), (9,))


@pytest.mark.parametrize("read", [int_attribute, float_attribute, string_attribute])
def test_attribute_of_another_type_is_named(read):
    node = ir.node("Op", [value()], {"a": [1, 2]}, name="n")
    with pytest.raises(ModelError, match="Op 'n': attribute a is INTS, expected"):
        read(node, "a", None)


def test_describe():
    assert describe(ir.node("Relu", [value()], name="act")) == "Relu 'act'"
    unnamed = ir.node("Relu", [value()])
    unnamed.outputs[0].name = "out"
    assert describe(unnamed) == "Relu 'out'"


def test_constants():
    array = np.arange(3.0, dtype=np.float32)
    constant = ir.node("Constant", [], {"value": ir.tensor(array)})
    node = ir.node("Op", [initializer(array), constant.outputs[0], value("x"), None], name="n")
    np.testing.assert_array_equal(constant_input(node, 0), array)
    np.testing.assert_array_equal(constant_input(node, 1), array)
    assert [constant_input(node, index) for index in (2, 3, 4)] == [None, None, None]
    assert constant_array(None) is None
    assert input_value(node, 3) is None is input_value(node, 9)


def test_an_initializer_that_can_be_fed_is_not_constant():
    weight = initializer(np.ones(3, np.float32))
    ir.Graph([weight], [], nodes=[], initializers=[weight], opset_imports={"": 21})
    assert constant_array(weight) is None


def test_required_inputs_are_named():
    node = ir.node("Conv", [value("x"), value("w")], name="c")
    with pytest.raises(ModelError, match=r"Conv 'c': input 2 \(bias\) is missing"):
        require_input(node, 2, "bias")
    with pytest.raises(ModelError, match="Conv 'c': its weight 'w' is computed by the graph, expected a constant"):
        require_constant(node, 1, "weight")


def test_shapes():
    assert static_shape(value(shape=["N", 3, None])) == (None, 3, None)
    assert static_shape(value()) is None
    assert (rank(value(shape=["N", 3])), rank(value()), rank(None)) == (2, None, None)


def test_window_defaults_from_the_weight():
    conv = ir.node("Conv", [value(), initializer(np.zeros((4, 3, 3, 5), np.float32))], {"dilations": [2, 1]})
    assert window(conv) == Window(kernel=(3, 5), strides=(1, 1), dilations=(2, 1), pads=(0, 0, 0, 0))
    assert window(conv).extent == (5, 5)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "the kernel's shape is unknown"),
        ({"kernel_shape": [2, 2], "strides": [1]}, "strides has 1 values, expected 2"),
        ({"kernel_shape": [2, 2], "pads": [1, 1]}, "pads has 2 values, expected 4"),
        ({"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, "auto_pad is 'SAME_UPPER', expected explicit pads"),
    ],
)
def test_windows_that_make_no_sense(attributes, message):
    with pytest.raises(ModelError, match=f"MaxPool 'p': {message}"):
        window(ir.node("MaxPool", [value()], attributes, name="p"))


@pytest.mark.parametrize("scale", [2.0**-149, 2.0**-30, 1.0, 2.0**100])
def test_exponent_of(scale: float) -> None:
    assert 2.0 ** exponent_of(ir.node("QuantizeLinear", []), scale) == scale


@pytest.mark.parametrize("scale", [0.3, 0.0, -1.0, float("inf"), float("nan")])
def test_scales_that_are_no_power_of_two(scale: float) -> None:
    with pytest.raises(ModelError, match=r"QuantizeLinear 'q': scale .*, expected a power of two"):
        exponent_of(ir.node("QuantizeLinear", [], name="q"), scale)
