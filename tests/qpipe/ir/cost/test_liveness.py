from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from passes.lower_integer import LowerInteger
from passes.lower_qoperator import LowerQOperator
from qpipe.ir.cost.liveness import ActivationPeak, activation_peak
from support.quantize import finalized, quantized
from support.zoo.linear import build_model, dequantize, quantize, scale_constants
from support.zoo.residual import residual_network

X = 2 * 8 * 8  # elements of x for one image
CONV = {"w": np.ones((2, 2, 1, 1), np.float32)}
WIDE = {"w3": np.ones((6, 2, 1, 1), np.float32)}


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=output, **attributes)


def peak(
    nodes: Sequence[onnx.NodeProto],
    batch_size: int = 1,
    *,
    batch: int | str = "N",
    outputs: Mapping[str, Any] | None = None,
    **constants: np.ndarray,
) -> ActivationPeak | None:
    """Of nodes that read `x` float32 [N, 2, 8, 8] and end in `y`."""
    arrays = {**CONV, **WIDE, "flat": np.int64([0, -1])} | constants
    inputs = {"x": (np.float32, [batch, 2, 8, 8])}
    model = ir.from_proto(build_model(nodes, inputs, outputs or {"y": np.float32}, arrays))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    found = activation_peak(model, batch_size)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    return found


CHAIN = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b w", "y")]
RESIDUAL = [*CHAIN[:2], node("Conv", "b w", "c"), node("Add", "c x", "y")]


@pytest.mark.parametrize(("batch_size", "batch", "images"), [(1, "N", 1), (3, "N", 3), (3, 5, 5)])
def test_a_chain_holds_what_a_node_reads_and_what_it_writes(batch_size: int, batch: int | str, images: int) -> None:
    assert peak(CHAIN, batch_size, batch=batch) == ActivationPeak(2 * X * 4 * images, "Conv 'a'")


def test_a_skip_keeps_its_tensor_alive() -> None:
    assert peak(RESIDUAL) == ActivationPeak(3 * X * 4, "Relu 'b'")


def test_where_sizes_change_the_node_is_the_one_between_the_largest() -> None:
    nodes = [node("Conv", "x w3", "a"), node("Relu", "a", "b"), node("GlobalAveragePool", "b", "y")]
    assert peak(nodes) == ActivationPeak(2 * 3 * X * 4, "Relu 'b'")


def test_outputs_stay_to_the_end() -> None:
    nodes = [*CHAIN[:2], node("Relu", "b", "c"), node("Relu", "c", "y")]
    assert peak(nodes) == ActivationPeak(2 * X * 4, "Conv 'a'")
    assert peak(nodes, outputs={"y": np.float32, "a": np.float32}) == ActivationPeak(3 * X * 4, "Relu 'c'")


def test_what_nobody_reads_is_held_while_it_is_written() -> None:
    nodes = [node("Conv", "x w3", "unread"), node("Relu", "x", "y")]
    assert peak(nodes) == ActivationPeak((1 + 3) * X * 4, "Conv 'unread'")


def test_views_share_memory_and_pass_their_life_on() -> None:
    nodes = [
        node("Identity", "x", "i"),
        node("Reshape", "i flat", "r"),
        node("Relu", "r", "a"),
        node("Unsqueeze", "a axis", "u"),
        node("Squeeze", "u axis", "s"),
        node("Add", "s r", "b"),
        node("Flatten", "b", "y"),
    ]
    assert peak(nodes, axis=np.int64([0])) == ActivationPeak(3 * X * 4, "Add 'b'")


def test_constants_and_what_is_computed_from_them_do_not_count() -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value_floats=[1.0] * 5000),
        node("Neg", "k", "m"),
        node("ReduceSum", "m", "s", keepdims=0),
        node("Add", "x s", "y"),
    ]
    assert peak(nodes) == ActivationPeak(2 * X * 4, "Add 'y'")


def test_element_types_have_their_sizes() -> None:
    nodes = [node("Cast", "x", "a", to=10), node("Relu", "a", "b"), node("Cast", "b", "y", to=1)]
    assert peak(nodes) == ActivationPeak(X * (4 + 2), "Cast 'a'")


def test_shapes_that_the_graph_computes_from_its_input() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape first", "n", axis=0),
        node("Concat", "n minus", "target", axis=0),
        node("Reshape", "x target", "flattened"),
        node("Relu", "flattened", "y"),
    ]
    found = peak(nodes, 4, first=np.int64([0]), minus=np.int64([-1]))
    assert found == ActivationPeak(4 * 2 * X * 4, "Relu 'y'")


def test_widths_of_a_pad_that_the_graph_computes() -> None:
    nodes = [
        node("ConstantOfShape", "six", "zeros", value=numpy_helper.from_array(np.int64([0]))),
        node("Concat", "zeros ends", "widths", axis=0),
        node("Pad", "x widths", "y"),
    ]
    found = peak(nodes, six=np.int64([6]), ends=np.int64([8, 8]))
    assert found == ActivationPeak((2 * 8 * 8 + 2 * 16 * 16) * 4, "Pad 'y'")


def test_an_unknown_size_or_a_graph_in_a_graph_makes_it_unknown() -> None:
    assert peak([node("NonZero", "x", "a"), node("Cast", "a", "y", to=1)]) is None
    value = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "branch", [], [value])
    assert peak([node("If", "yes", "y", then_branch=branch, else_branch=branch)], yes=np.bool_(True)) is None


def test_a_function_is_what_is_in_it() -> None:
    model = build_model([helper.make_node("Twice", ["x"], ["y"], domain="own")], {"x": (np.float32, ["N", 9])},
                        {"y": np.float32}, {})  # fmt: skip
    opset = helper.make_opsetid("", 21)
    body = [helper.make_node("Add", ["v", "v"], ["t"]), helper.make_node("Add", ["t", "v"], ["r"])]
    model.functions.append(helper.make_function("own", "Twice", ["v"], ["r"], body, [opset]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    found = activation_peak(ir.from_proto(model))
    assert found is not None
    assert found.size == 3 * 9 * 4


SCALES = scale_constants(s=(-4, 0))
WEIGHTS = {"w_q": np.ones((2, 2, 1, 1), np.int8), "w_scale": np.float32(0.5), "w_zero": np.int8(0)}


def pair(value: str, *, clip: bool = False) -> list[onnx.NodeProto]:
    """`value` float -> `value`_q uint8 -> `value`_d float, the codes cut where `clip` is set."""
    codes = f"{value}_c" if clip else f"{value}_q"
    clipping = [node("Clip", f"{value}_q s_zero top", codes)] if clip else []
    return [
        quantize(value, f"{value}_q", "s_scale", "s_zero"),
        *clipping,
        dequantize(codes, f"{value}_d", "s_scale", "s_zero"),
    ]


def quantized_peak(nodes: Sequence[onnx.NodeProto], **options: Any) -> ActivationPeak | None:
    weight = dequantize("w_q", "wd", "w_scale", "w_zero")
    return peak([weight, *nodes], **options, **SCALES, **WEIGHTS, top=np.uint8(15))


@pytest.mark.parametrize("clip", [False, True])
def test_between_quantizers_there_are_codes_alone(clip: bool) -> None:
    first = [*pair("x", clip=clip), node("Conv", "x_d wd", "a"), node("Relu", "a", "b"), *pair("b", clip=clip)]
    second = [node("Conv", "b_d wd", "c"), *pair("c"), node("Add", "c_d b_d", "s"), *pair("s")]
    # The float input and its codes are the most; then the kernels read and write bytes.
    small = [node("GlobalAveragePool", "s_d", "p"), *pair("p"), node("Conv", "p_d wd", "y")]
    found = quantized_peak([*first, *second, *small])
    assert found is not None
    assert found.size == X * (4 + 1)
    assert found.node.startswith("QuantizeLinear")


def test_the_peak_among_codes() -> None:
    wide = [dequantize("v_q", "vd", "w_scale", "w_zero"), node("Conv", "x_d vd", "a"), *pair("a")]
    nodes = [*pair("x"), *wide, node("Relu", "a_d", "b"), *pair("b"), node("Add", "a_d b_d", "c"), *pair("c")]
    nodes += [node("GlobalAveragePool", "c_d", "y")]
    # A pool without a quantizer behind it is a float node, and reads floats.
    found = quantized_peak(nodes, v_q=np.ones((16, 2, 1, 1), np.int8))
    assert found == ActivationPeak(16 * 64 * (1 + 4), "DequantizeLinear 'c_d'")
    nodes[-1] = node("MaxPool", "c_d", "p", kernel_shape=[8, 8])
    nodes += [*pair("p"), dequantize("u_q", "ud", "w_scale", "w_zero"), node("Conv", "p_d ud", "y")]
    found = quantized_peak(nodes, v_q=np.ones((16, 2, 1, 1), np.int8), u_q=np.ones((1, 16, 1, 1), np.int8))
    assert found == ActivationPeak(3 * 16 * 64, "Add 'c'")


def test_a_float_that_others_read_exists_beside_its_codes() -> None:
    nodes = [*pair("x"), node("Conv", "x_d wd", "a"), *pair("a"), node("Conv", "a_d wd", "b"), node("Add", "a b", "y")]
    # At the Add: a, b and y.
    assert quantized_peak(nodes) == ActivationPeak(3 * X * 4, "Add 'y'")


def exported(model: ir.Model, lowering: ir.passes.InPlacePass) -> ir.Model:
    lowering(model)
    return model


def test_a_quantized_network_and_its_exports() -> None:
    final = finalized(quantized(residual_network()))
    x, wide = 3 * 64, 16 * 64
    expected = max(x * 4 + x, 3 * wide)
    for batch_size in (1, 4):
        for model in (final, exported(final.clone(), LowerQOperator())):
            found = activation_peak(model, batch_size)
            assert found is not None
            assert found.size == expected * batch_size
    # It multiplies patches of nine pixels, and sums in int32.
    integer = activation_peak(exported(final.clone(), LowerInteger()))
    assert integer is not None
    assert integer.size > 10 * wide
