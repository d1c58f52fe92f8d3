import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qpipe.ir.cost.value_sizes import value_sizes
from qpipe.runtime.session import open_session
from support.networks import parse

GRID = "scale, zero"
SHAPE = (2, 4, 6, 6)


@pytest.mark.parametrize(
    "node",
    [
        f"com.microsoft.QLinearAdd(x, {GRID}, other, {GRID}, {GRID})",
        f"com.microsoft.QLinearMul(x, {GRID}, other, {GRID}, {GRID})",
        f"com.microsoft.QLinearConcat<axis=1>({GRID}, x, {GRID}, x, {GRID}, x, {GRID})",
        f"com.microsoft.QLinearAveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, {GRID}, {GRID})",
        f"com.microsoft.QLinearGlobalAveragePool(x, {GRID}, {GRID})",
        f"com.microsoft.QLinearLeakyRelu<alpha=0.1>(x, {GRID}, {GRID})",
        f"com.microsoft.QLinearSigmoid(x, {GRID}, {GRID})",
        f"com.microsoft.QLinearSoftmax<axis=1, opset=21>(x, {GRID}, {GRID})",
        f"QLinearMatMul(x, {GRID}, square, {GRID}, {GRID})",
        f"QLinearConv<strides=[2,2]>(x, {GRID}, kernel, {GRID}, {GRID})",
    ],
    ids=lambda node: re.search(r"\w+(?=[<(])", node)[0],
)
def test_integer_operators_have_the_sizes_that_onnxruntime_gives_them(node: str) -> None:
    constants = {
        "scale": np.float32(0.5),
        "zero": np.uint8(3),
        "other": np.ones((4, 1, 1), np.uint8),
        "square": np.ones((6, 5), np.uint8),
        "kernel": np.ones((7, 4, 3, 3), np.uint8),
    }
    # A node behind it, which has a size only where the operator's own is known.
    model = parse(f"(uint8[N,4,6,6] x) => (uint8[] y, uint8[] z) {{ y = {node} z = Flatten(y) }}", **constants)
    arrays = open_session(model).run(None, {"x": np.ones(SHAPE, np.uint8)})
    sizes = value_sizes(ir.from_proto(model), SHAPE[0])
    assert [sizes[name] for name in ("x", "y", "z")] == [np.prod(SHAPE), *(array.nbytes for array in arrays)]


def test_qgemm() -> None:
    constants = {"scale": np.float32(0.5), "zero": np.uint8(3), "w": np.ones((5, 4), np.uint8)}
    node = f"com.microsoft.QGemm<transB=1>(x, {GRID}, w, {GRID}, , {GRID})"
    model = parse(f"(uint8[N,4] x) => (uint8[] y) {{ y = {node} }}", **constants)
    assert value_sizes(ir.from_proto(model), 3) == {"x": 12, "y": 15}


def test_what_is_unknown_is_left_out() -> None:
    text = f"""(uint8[2,4,6,6] x) => (uint8[] y, uint8[] b) {{
        a = com.microsoft.Mystery(x)
        b = Relu(a)
        y = com.microsoft.QLinearGlobalAveragePool<channels_last=1>(x, {GRID}, {GRID})
    }}"""
    model = parse(text, scale=np.float32(0.5), zero=np.uint8(3))
    assert value_sizes(ir.from_proto(model)) == {"x": 288}


def test_four_bits_are_half_a_byte_and_half_of_one_is_one() -> None:
    model = parse(f"(uint8[N,3] x) => (uint4[] y) {{ y = Cast<to={onnx.TensorProto.UINT4}>(x) }}")
    assert value_sizes(ir.from_proto(model), 1) == {"x": 3, "y": 2}


def test_a_batch_stands_in_the_shapes_that_the_file_tells() -> None:
    for size, expected in (("N", {"x": 60, "y": 140}), ("M", {"x": 60})):
        model = parse(f"(float[N,3] x) => (float[{size},7] y) {{ y = com.microsoft.Mystery(x) }}")
        assert value_sizes(ir.from_proto(model), 5) == expected
