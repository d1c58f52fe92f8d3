from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.ir.cost.liveness import ActivationPeak, activation_peak
from support.networks import parse, scale_constants
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.zoo.residual import residual_network

X = 2 * 8 * 8  # elements of x for one image
CONV = {"w": np.ones((2, 2, 1, 1), np.float32)}
WIDE = {"w3": np.ones((6, 2, 1, 1), np.float32)}


def peak(
    nodes: Sequence[str],
    batch_size: int = 1,
    *,
    batch: int | str = "N",
    outputs: Sequence[str] = ("y",),
    **constants: np.ndarray,
) -> ActivationPeak | None:
    """Of nodes that read `x` float32 [N, 2, 8, 8] and end in `y`; each has the name of its output."""
    arrays = {**CONV, **WIDE, "flat": np.int64([0, -1])} | constants
    results = ", ".join(f"float[] {name}" for name in outputs)
    proto = parse(f"(float[{batch},2,8,8] x) => ({results}) {{ {' '.join(nodes)} }}", **arrays)
    for node in proto.graph.node:
        node.name = node.output[0]
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    found = activation_peak(model, batch_size)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    return found


CHAIN = ["a = Conv(x, w)", "b = Relu(a)", "y = Conv(b, w)"]
RESIDUAL = [*CHAIN[:2], "c = Conv(b, w)", "y = Add(c, x)"]


@pytest.mark.parametrize(("batch_size", "batch", "images"), [(1, "N", 1), (3, "N", 3), (3, 5, 5)])
def test_a_chain_holds_what_a_node_reads_and_what_it_writes(batch_size: int, batch: int | str, images: int) -> None:
    assert peak(CHAIN, batch_size, batch=batch) == ActivationPeak(2 * X * 4 * images, "Conv 'a'")


def test_a_skip_keeps_its_tensor_alive() -> None:
    assert peak(RESIDUAL) == ActivationPeak(3 * X * 4, "Relu 'b'")


def test_where_sizes_change_the_node_is_the_one_between_the_largest() -> None:
    nodes = ["a = Conv(x, w3)", "b = Relu(a)", "y = GlobalAveragePool(b)"]
    assert peak(nodes) == ActivationPeak(2 * 3 * X * 4, "Relu 'b'")


def test_outputs_stay_to_the_end() -> None:
    nodes = [*CHAIN[:2], "c = Relu(b)", "y = Relu(c)"]
    assert peak(nodes) == ActivationPeak(2 * X * 4, "Conv 'a'")
    assert peak(nodes, outputs=("y", "a")) == ActivationPeak(3 * X * 4, "Relu 'c'")


def test_what_nobody_reads_is_held_while_it_is_written() -> None:
    nodes = ["unread = Conv(x, w3)", "y = Relu(x)"]
    assert peak(nodes) == ActivationPeak((1 + 3) * X * 4, "Conv 'unread'")


def test_views_share_memory_and_pass_their_life_on() -> None:
    nodes = [
        "i = Identity(x)",
        "r = Reshape(i, flat)",
        "a = Relu(r)",
        "u = Unsqueeze(a, axis)",
        "s = Squeeze(u, axis)",
        "b = Add(s, r)",
        "y = Flatten(b)",
    ]
    assert peak(nodes, axis=np.int64([0])) == ActivationPeak(3 * X * 4, "Add 'b'")


def test_constants_and_what_is_computed_from_them_do_not_count() -> None:
    nodes = [
        f"k = Constant<value_floats=[{', '.join(['1.0'] * 5000)}]>()",
        "m = Neg(k)",
        "s = ReduceSum<keepdims=0>(m)",
        "y = Add(x, s)",
    ]
    assert peak(nodes) == ActivationPeak(2 * X * 4, "Add 'y'")


def test_element_types_have_their_sizes() -> None:
    nodes = ["a = Cast<to=10>(x)", "b = Relu(a)", "y = Cast<to=1>(b)"]
    assert peak(nodes) == ActivationPeak(X * (4 + 2), "Cast 'a'")


def test_shapes_that_the_graph_computes_from_its_input() -> None:
    nodes = [
        "shape = Shape(x)",
        "n = Gather<axis=0>(shape, first)",
        "target = Concat<axis=0>(n, minus)",
        "flattened = Reshape(x, target)",
        "y = Relu(flattened)",
    ]
    found = peak(nodes, 4, first=np.int64([0]), minus=np.int64([-1]))
    assert found == ActivationPeak(4 * 2 * X * 4, "Relu 'y'")


def test_widths_of_a_pad_that_the_graph_computes() -> None:
    nodes = [
        "zeros = ConstantOfShape<value=int64[1] {0}>(six)",
        "widths = Concat<axis=0>(zeros, ends)",
        "y = Pad(x, widths)",
    ]
    found = peak(nodes, six=np.int64([6]), ends=np.int64([8, 8]))
    assert found == ActivationPeak((2 * 8 * 8 + 2 * 16 * 16) * 4, "Pad 'y'")


def test_an_unknown_size_or_a_graph_in_a_graph_makes_it_unknown() -> None:
    assert peak(["a = NonZero(x)", "y = Cast<to=1>(a)"]) is None
    branch = "branch () => (float[] z) { z = Relu(x) }"
    assert peak([f"y = If(yes)<then_branch={branch}, else_branch={branch}>"], yes=np.bool_(True)) is None


def test_a_function_is_what_is_in_it() -> None:
    text = """(float[N,9] x) => (float[] y) { y = own.Twice(x) }
        <domain: "own", opset_import: ["": 21]> Twice (v) => (r) { t = Add(v, v) r = Add(t, v) }"""
    found = activation_peak(ir.from_proto(parse(text, opsets='"": 21, "own": 1')))
    assert found is not None
    assert found.size == 3 * 9 * 4


SCALES = scale_constants(s=(-4, 0))
WEIGHTS = {"w_q": np.ones((2, 2, 1, 1), np.int8), "w_scale": np.float32(0.5), "w_zero": np.int8(0)}


def pair(value: str, *, clip: bool = False) -> list[str]:
    """`value` float -> `value`_q uint8 -> `value`_d float, the codes cut where `clip` is set."""
    codes = f"{value}_c" if clip else f"{value}_q"
    clipping = [f"{codes} = Clip({value}_q, s_zero, top)"] if clip else []
    return [
        f"{value}_q = QuantizeLinear({value}, s_scale, s_zero)",
        *clipping,
        f"{value}_d = DequantizeLinear({codes}, s_scale, s_zero)",
    ]


def quantized_peak(nodes: Sequence[str], **options: Any) -> ActivationPeak | None:
    weight = "wd = DequantizeLinear(w_q, w_scale, w_zero)"
    return peak([weight, *nodes], **options, **SCALES, **WEIGHTS, top=np.uint8(15))


@pytest.mark.parametrize("clip", [False, True])
def test_between_quantizers_there_are_codes_alone(clip: bool) -> None:
    first = [*pair("x", clip=clip), "a = Conv(x_d, wd)", "b = Relu(a)", *pair("b", clip=clip)]
    second = ["c = Conv(b_d, wd)", *pair("c"), "s = Add(c_d, b_d)", *pair("s")]
    # The float input and its codes are the most; then the kernels read and write bytes.
    small = ["p = GlobalAveragePool(s_d)", *pair("p"), "y = Conv(p_d, wd)"]
    found = quantized_peak([*first, *second, *small])
    assert found is not None
    assert found.size == X * (4 + 1)
    assert found.node.startswith("QuantizeLinear")


def test_the_peak_among_codes() -> None:
    wide = ["vd = DequantizeLinear(v_q, w_scale, w_zero)", "a = Conv(x_d, vd)", *pair("a")]
    nodes = [*pair("x"), *wide, "b = Relu(a_d)", *pair("b"), "c = Add(a_d, b_d)", *pair("c")]
    nodes += ["y = GlobalAveragePool(c_d)"]
    # A pool without a quantizer behind it is a float node, and reads floats.
    found = quantized_peak(nodes, v_q=np.ones((16, 2, 1, 1), np.int8))
    assert found == ActivationPeak(16 * 64 * (1 + 4), "DequantizeLinear 'c_d'")
    nodes[-1] = "p = MaxPool<kernel_shape=[8,8]>(c_d)"
    nodes += [*pair("p"), "ud = DequantizeLinear(u_q, w_scale, w_zero)", "y = Conv(p_d, ud)"]
    found = quantized_peak(nodes, v_q=np.ones((16, 2, 1, 1), np.int8), u_q=np.ones((1, 16, 1, 1), np.int8))
    assert found == ActivationPeak(3 * 16 * 64, "Add 'c'")


def test_a_float_that_others_read_exists_beside_its_codes() -> None:
    nodes = [*pair("x"), "a = Conv(x_d, wd)", *pair("a"), "b = Conv(a_d, wd)", "y = Add(a, b)"]
    # At the Add: a, b and y.
    assert quantized_peak(nodes) == ActivationPeak(3 * X * 4, "Add 'y'")


def test_a_quantized_network_and_its_exports() -> None:
    final = finalized(quantized(residual_network()))
    x, wide = 3 * 64, 16 * 64
    expected = max(x * 4 + x, 3 * wide)
    for batch_size in (1, 4):
        for model in (final, to_qoperator(final)):
            found = activation_peak(model, batch_size)
            assert found is not None
            assert found.size == expected * batch_size
    # It multiplies patches of nine pixels, and sums in int32.
    integer = activation_peak(to_integer(final))
    assert integer is not None
    assert integer.size > 10 * wide
