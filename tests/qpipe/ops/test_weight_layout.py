import numpy as np
import onnx_ir as ir
import pytest
import torch

from qpipe.ops.weight_layout import is_depthwise, output_axis, to_rows, to_weight

NODES = [
    (ir.node("Conv", [None, None]), (6, 3, 2, 2), 0),
    (ir.node("Gemm", [None, None], {"transB": 1}), (6, 4), 0),
    (ir.node("Gemm", [None, None]), (4, 6), 1),
    (ir.node("MatMul", [None, ir.val("w", const_value=ir.tensor(np.zeros((4, 6), np.float32)))]), (4, 6), 1),
]


@pytest.mark.parametrize(("node", "shape", "axis"), NODES)
def test_rows_are_output_channels(node: ir.Node, shape: tuple[int, ...], axis: int) -> None:
    weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert output_axis(node) == axis
    rows = to_rows(node, weight)
    assert rows.shape == (6, weight.size // 6)
    for channel in range(6):
        assert sorted(rows[channel]) == sorted(weight.take(channel, axis).reshape(-1))
    np.testing.assert_array_equal(to_weight(node, rows, shape), weight)
    tensor = torch.from_numpy(weight)
    np.testing.assert_array_equal(to_rows(node, tensor).numpy(), rows)
    np.testing.assert_array_equal(to_weight(node, to_rows(node, tensor), shape).numpy(), weight)


@pytest.mark.parametrize(
    ("shape", "groups", "expected"),
    [
        ((6, 1, 3, 3), 6, True),
        ((6, 1, 3), 6, True),
        ((6, 2, 3, 3), 3, False),
        ((6, 1, 3, 3), 1, False),
        ((12, 1, 3, 3), 6, False),  # two output channels a group: a product of matrices
    ],
)
def test_is_depthwise(shape: tuple[int, ...], groups: int, expected: bool) -> None:
    node = ir.node("Conv", [None, ir.val("w", shape=shape)], {"group": groups})
    assert is_depthwise(node) == expected
