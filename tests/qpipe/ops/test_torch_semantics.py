"""Every op's torch function equals onnxruntime on float inputs: whole numbers, so that both are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from qpipe.errors import LoweringError, ModelError
from qpipe.nodes import window as read_window
from qpipe.ops import OPS

FLOAT = onnx.TensorProto.FLOAT


def whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-9, 10, shape).astype(np.float32)


def node_of(
    op_type: str, inputs: list[np.ndarray], constants: list[Any], attributes: dict[str, Any]
) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(inputs))]
    constant_names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    node = helper.make_node(op_type, names + constant_names, ["y"], **attributes)
    graph = helper.make_graph(
        [node], "one", [helper.make_tensor_value_info(n, FLOAT, x.shape) for n, x in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, constant_names, strict=True) if n],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def compare(op_type: str, inputs: list[np.ndarray], constants: list[Any] = (), extra: list[np.ndarray] = (),
            **attributes: Any) -> None:  # fmt: skip
    """extra: what the torch function takes besides the inputs (a weight). Exact, -0 equal to 0."""
    proto = node_of(op_type, inputs, list(constants), attributes)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        expected = session.run(None, {f"x{i}": x for i, x in enumerate(inputs)})[0]
    except Exception:
        assume(False)  # not a legal node
    if not expected.size:
        return  # nothing to compare, and torch refuses windows on it
    node = ir.from_proto(proto).graph.node(0)
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (*inputs, *extra)]
    found = OPS[op_type].torch(node)(*tensors).numpy()
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@st.composite
def windows(draw: st.DrawFn, dims: int = 2, *, dilated: bool = True) -> dict[str, Any]:
    kernel = [draw(st.integers(1, 4)) for _ in range(dims)]
    dilations = [draw(st.integers(1, 3)) if dilated else 1 for _ in kernel]
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    return {
        "kernel_shape": kernel, "pads": pads, "strides": [draw(st.integers(1, 3)) for _ in kernel],
        **({"dilations": dilations} if dilated else {}),
    }  # fmt: skip


def fits(window: dict[str, Any], *sizes: int) -> bool:
    """Whether one window at least lies on the padded image; onnxruntime computes something where none does."""
    node = ir.node("MaxPool", [None], window)
    found = read_window(node)
    pads = np.array(found.pads).reshape(2, -1).sum(0)
    return all(e <= size + pad for e, size, pad in zip(found.extent, sizes, pads, strict=True))


SIZE = st.integers(1, 12)


@given(
    data=st.data(), dims=st.integers(1, 2), groups=st.integers(1, 3), fan_in=st.integers(1, 3),
    fan_out=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_conv(data: st.DataObject, dims: int, groups: int, fan_in: int, fan_out: int, seed: int) -> None:
    window = data.draw(windows(dims))
    rng = np.random.default_rng(seed)
    x = whole(rng, 2, groups * fan_in, *(data.draw(SIZE) for _ in range(dims)))
    w = whole(rng, groups * fan_out, fan_in, *window["kernel_shape"])
    bias = whole(rng, groups * fan_out)
    compare("Conv", [x], [w], [w], group=groups, **window)
    compare("Conv", [x], [w, bias], [w, bias], group=groups, **window)


@given(
    data=st.data(), channels=st.sampled_from([1, 1, 2]), groups=st.integers(1, 2), stride=st.integers(1, 3),
    size=st.tuples(st.integers(4, 9), st.integers(4, 7)), kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)  # fmt: skip
def test_conv_of_channels_last(
    data: st.DataObject, channels: int, groups: int, stride: int, size: tuple[int, int], kernel: tuple[int, int]
) -> None:
    """As the executor has them in training: oneDNN errs for one channel and one column of results."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays = whole(rng, 4, channels * groups, *size), whole(rng, 3 * groups, channels, *kernel)
    node = ir.from_proto(node_of("Conv", [arrays[0]], [arrays[1]], {"strides": [1, stride], "group": groups}))
    run = OPS["Conv"].torch(node.graph.node(0))
    expected = run(*(torch.from_numpy(a).double() for a in arrays))
    # Of one channel too the strides are those of channels last.
    x, w = (torch.from_numpy(a.transpose(0, 2, 3, 1).copy()).permute(0, 3, 1, 2) for a in arrays)
    np.testing.assert_array_equal(run(x, w).double().numpy(), expected.numpy())


@given(data=st.data(), dims=st.integers(1, 2), ceil_mode=st.integers(0, 1), seed=st.integers(0, 99))
def test_max_pool(data: st.DataObject, dims: int, ceil_mode: int, seed: int) -> None:
    window, sizes = data.draw(windows(dims)), [data.draw(SIZE) for _ in range(dims)]
    assume(fits(window, *sizes))
    x = whole(np.random.default_rng(seed), 2, 3, *sizes)
    compare("MaxPool", [x], ceil_mode=ceil_mode, **window)


@given(
    data=st.data(), dims=st.integers(1, 2), ceil_mode=st.integers(0, 1), include=st.integers(0, 1),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_average_pool(data: st.DataObject, dims: int, ceil_mode: int, include: int, seed: int) -> None:
    window, sizes = data.draw(windows(dims, dilated=False)), [data.draw(SIZE) for _ in range(dims)]
    assume(fits(window, *sizes))
    x = whole(np.random.default_rng(seed), 2, 3, *sizes)
    compare("AveragePool", [x], ceil_mode=ceil_mode, count_include_pad=include, **window)


@given(height=SIZE, width=SIZE, seed=st.integers(0, 99))
def test_global_mean(height: int, width: int, seed: int) -> None:
    x = whole(np.random.default_rng(seed), 2, 3, height, width)
    node = ir.from_proto(node_of("GlobalAveragePool", [x], [], {})).graph.node(0)
    mean = OPS["GlobalAveragePool"].torch(node)(torch.from_numpy(x)).numpy()
    # The quotient of whole numbers, rounded once.
    np.testing.assert_array_equal(mean, x.sum((2, 3), keepdims=True) / np.float32(height * width))
    node = ir.from_proto(node_of("ReduceMean", [x], [np.array([2, 3])], {})).graph.node(0)
    np.testing.assert_array_equal(OPS["ReduceMean"].torch(node)(torch.from_numpy(x)).numpy(), mean)


@given(
    lead=st.lists(st.integers(1, 4), min_size=1, max_size=3), k=st.integers(1, 6), c=st.integers(1, 6),
    trans=st.integers(0, 1),
)  # fmt: skip
def test_matrices(lead: list[int], k: int, c: int, trans: int) -> None:
    rng = np.random.default_rng(k + c)
    w, bias = whole(rng, k, c), whole(rng, c)
    compare("MatMul", [whole(rng, *lead, k)], [w], [w])
    stored = np.ascontiguousarray(w.T) if trans else w
    compare("Gemm", [whole(rng, lead[0], k)], [stored], [stored], transB=trans)
    compare("Gemm", [whole(rng, lead[0], k)], [stored, bias], [stored, bias], transB=trans)


@given(shape=st.lists(st.integers(1, 5), min_size=2, max_size=4), bound=st.sampled_from([6.0, 1.5, 100.0]))
def test_activations_and_add(shape: list[int], bound: float) -> None:
    rng = np.random.default_rng(len(shape))
    x = whole(rng, *shape)
    compare("Relu", [x])
    compare("Clip", [x], [np.float32(0), np.float32(bound)])
    compare("Clip", [x], [np.float32(0)])
    compare("Add", [x, whole(rng, *shape)])


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_shapes(shape: list[int], data: st.DataObject) -> None:
    x = whole(np.random.default_rng(0), *shape)
    dims = len(shape)
    compare("Flatten", [x], axis=data.draw(st.integers(-dims, dims)))
    compare("Transpose", [x], perm=data.draw(st.permutations(range(dims))))
    compare("Transpose", [x])
    compare("Reshape", [x], [np.array([0, -1])]) if dims > 1 else None
    compare("Reshape", [x], [np.array([-1, shape[-1]])])
    compare("Reshape", [x], [np.array([shape[0], 1, -1])])
    compare("Reshape", [x], [np.array([0] * dims)])
    axes = data.draw(st.lists(st.integers(-dims - 1, dims), min_size=1, max_size=2, unique=True))
    compare("Unsqueeze", [x], [np.array(axes)])
    ones = [i - data.draw(st.sampled_from([0, dims])) for i, size in enumerate(shape) if size == 1]
    if ones:
        compare("Squeeze", [x], [np.array(ones)])


BOUND = st.one_of(st.integers(-8, 8), st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]))


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3), data=st.data())
def test_slice(shape: list[int], data: st.DataObject) -> None:
    x = whole(np.random.default_rng(0), *shape)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    signed = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    starts, ends = ([data.draw(BOUND) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([1, 2, 3, -1, -2, -3])) for _ in axes]
    # ONNX: an empty slice; onnxruntime: all, backwards.
    assume(all(step > 0 or end < 2**30 for step, end in zip(steps, ends, strict=True)))
    compare("Slice", [x], [np.array(v) for v in (starts, ends, signed, steps)])
    whole_axes = [data.draw(BOUND) for _ in shape], [data.draw(BOUND) for _ in shape]
    compare("Slice", [x], [np.array(v) for v in whole_axes])


@given(shape=st.lists(st.integers(2, 6), min_size=1, max_size=4), data=st.data())
def test_pad(shape: list[int], data: st.DataObject) -> None:
    x = whole(np.random.default_rng(0), *shape)
    pads = [data.draw(st.integers(-1, 3)) for _ in shape * 2]
    compare("Pad", [x], [np.array(pads)])
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    signed = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    some = [data.draw(st.integers(-1, 3)) for _ in axes * 2]
    compare("Pad", [x], [np.array(some), None, np.array(signed)])


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), count=st.integers(1, 4), data=st.data())
def test_concat(shape: list[int], count: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(count)
    sizes = [[data.draw(st.integers(1, 4)) if i == axis % len(shape) else s for i, s in enumerate(shape)]
             for _ in range(count)]  # fmt: skip
    compare("Concat", [whole(rng, *size) for size in sizes], axis=axis)


def test_identity_and_dropout() -> None:
    x = whole(np.random.default_rng(0), 2, 3)
    compare("Identity", [x])
    compare("Dropout", [x], [np.float32(0.5)])


def test_batch_norm_of_any_rank() -> None:
    node = ir.node("BatchNormalization", [None] * 5)
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
        x = whole(np.random.default_rng(0), *shape)
        y = OPS["BatchNormalization"].torch(node)(
            torch.from_numpy(x), torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 1, 2])
        )
        np.testing.assert_array_equal(y.numpy()[:, 2], x[:, 2] * 3 + 2)


@pytest.mark.parametrize("allowzero", [0, 1])
def test_a_fixed_batch_does_not_bind_reshape(allowzero: int) -> None:
    """Also as torch's exporter writes it, which allows zeros."""
    x = whole(np.random.default_rng(0), 1, 3, 4)
    node = ir.from_proto(node_of("Reshape", [x], [np.array([1, 12])], {"allowzero": allowzero})).graph.node(0)
    assert OPS["Reshape"].torch(node)(torch.zeros(5, 3, 4)).shape == (5, 12)


@pytest.mark.parametrize(
    ("op_type", "shape", "constants", "attributes", "error", "message"),
    [
        (
            "Conv",
            (1, 1, 2, 2, 2, 2),
            [np.zeros((1, 1, 1, 1, 1, 1), np.float32)],
            {},
            LoweringError,
            "4 spatial dimensions",
        ),
        (
            "MaxPool",
            (1, 1, 4, 4, 4, 4),
            [],
            {"kernel_shape": [2, 2, 2, 2]},
            LoweringError,
            "4 spatial dimensions, exp",
        ),
        ("AveragePool", (1, 1, 4, 4, 4, 4), [], {"kernel_shape": [2] * 4}, LoweringError, "4 spatial dimensions"),
        ("AveragePool", (1, 1, 4), [], {"kernel_shape": [2], "dilations": [2]}, LoweringError, "dilations"),
        ("MaxPool", (1, 1, 4, 4), [], {"kernel_shape": [2, 2], "auto_pad": "VALID"}, ModelError, "auto_pad"),
        ("Squeeze", (1, 1, 4, 4), [], {}, ModelError, "axes"),
    ],
)
def test_what_has_no_semantics_here(
    op_type: str, shape: tuple[int, ...], constants: list[Any], attributes: dict[str, Any], error: type, message: str
) -> None:
    node = ir.from_proto(node_of(op_type, [np.zeros(shape, np.float32)], constants, attributes)).graph.node(0)
    with pytest.raises(error, match=message):
        OPS[op_type].torch(node)
