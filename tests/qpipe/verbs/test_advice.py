"""Each case of a node without an integer form gets an advice of its own."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import qpipe
from qpipe.verbs.inspect import NO_FORM
from support.zoo.digits import CHANNELS, digits_model
from support.zoo.linear import build_model

ONE = np.float32(1.5)
BLOCK = ["block"]
STATISTICS = {name: np.full(CHANNELS, 0.5, np.float32) for name in ("g", "b", "m", "v")}
PADS = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}


def node(op: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["between"], name="odd", **attributes)


def advice_for(odd: onnx.NodeProto, constants: dict[str, Any]) -> str:
    report = qpipe.inspect(digits_model(between=[odd], constants=constants))
    (found,) = [info for info in report.nodes if info.role == NO_FORM]
    assert (found.name, found.op) == ("odd", odd.op_type)
    return found.advice


@pytest.mark.parametrize(
    ("odd", "constants", "words"),
    [
        (node("Sigmoid", BLOCK), {}, "replace it by Relu or Clip(0, 6)"),
        (node("HardSwish", BLOCK), {}, "replace it by Relu or Clip(0, 6)"),
        (node("LeakyRelu", BLOCK), {}, "replace it by Relu or Clip(0, 6)"),
        (node("Clip", ["block", "low", "one"]), {"one": ONE, "low": np.float32(-1)}, "its bounds are (-1, 1.5)"),
        (node("Clip", ["block", "", "one"]), {"one": ONE}, "its bounds are (none, 1.5)"),
        (node("Mul", ["block", "one"]), {"one": ONE}, "put it into the weights"),
        (node("Div", ["block", "one"]), {"one": ONE}, "put it into the weights"),
        (node("Sub", ["block", "one"]), {"one": ONE}, "put it into the weights"),
        (node("Sub", ["block", "r1"]), {}, "write it as Add"),
        (node("Mul", ["block", "r1"]), {}, "gating"),
        (node("Add", ["block", "one"]), {"one": ONE}, "put it into the bias"),
        (
            helper.make_node(
                "BatchNormalization", ["block", *STATISTICS], ["between", "m2", "v2"], name="odd", training_mode=1
            ),
            STATISTICS,
            "export the model in evaluation mode",
        ),
        (node("Squeeze", ["block"]), {}, "its arguments are computed"),
        (node("InstanceNormalization", ["block", "g", "b"]), STATISTICS, "use BatchNormalization instead"),
        (node("Pad", ["block", "pads", "one"]), {**PADS, "one": ONE}, "it fills in 1.5: pad with zeros"),
        (node("Pad", ["block", "pads"], mode="reflect"), PADS, "mode 'reflect': pad with zeros"),
        (node("Softmax", BLOCK), {}, "attention"),
        (node("DepthToSpace", BLOCK, blocksize=1), {}, "Reshape, Transpose, Reshape"),
        (node("Concat", ["block", "more"], axis=1), {"more": np.ones((1, 8, 8, 8), np.float32)}, "it joins a constant"),
        (node("Abs", BLOCK), {}, "replace it by ops that have an integer form"),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else None,
)  # fmt: skip
def test_in_the_middle(odd: onnx.NodeProto, constants: dict[str, Any], words: str) -> None:
    assert words in advice_for(odd, constants)


def small(nodes: list[onnx.NodeProto], shape: list[int | str], constants: dict[str, Any]) -> dict[str, str]:
    """The advice for each node of a network from `x` to `y`."""
    report = qpipe.inspect(build_model(nodes, {"x": (np.float32, shape)}, {"y": np.float32}, constants))
    return {info.name: info.advice for info in report.nodes if info.advice}


def test_normalization_of_the_input_moves_into_the_preprocessing() -> None:
    nodes = [
        helper.make_node("Div", ["x", "range"], ["a"], name="to_one"),
        helper.make_node("Sub", ["a", "mean"], ["b"], name="minus_mean"),
        helper.make_node("Mul", ["b", "factor"], ["c"], name="by_std"),
        helper.make_node("Conv", ["c", "w"], ["y"], name="conv"),
    ]
    constants = {"range": np.float32(255), "mean": np.float32(0.5), "factor": np.float32(4), "w": np.ones((2, 3, 1, 1))}
    constants["w"] = constants["w"].astype(np.float32)
    found = small(nodes, ["batch", 3, 4, 4], constants)
    assert set(found) == {"to_one", "minus_mean", "by_std"}
    assert all("--mean and --std" in advice for advice in found.values())


def test_products() -> None:
    w = np.ones((4, 4), np.float32)
    scaled = [
        helper.make_node("Gemm", ["x", "w"], ["a"], name="scaled", alpha=0.5, transA=0),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="last"),
    ]
    assert small(scaled, ["batch", 4], {"w": w})["scaled"].startswith("alpha is 0.5: put the factors")
    attention = [
        helper.make_node("MatMul", ["x", "x"], ["a"], name="attention"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="last"),
    ]
    assert "two activations" in small(attention, [1, 4, 4], {"w": w})["attention"]
    stacked = [
        helper.make_node("MatMul", ["x", "w3"], ["a"], name="stacked"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="last"),
    ]
    assert "one MatMul for each matrix" in small(stacked, [2, 4, 4], {"w3": np.stack([w, w]), "w": w})["stacked"]
    swapped = [
        helper.make_node("MatMul", ["w", "x"], ["a"], name="swapped"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="last"),
    ]
    assert "exchange the operands" in small(swapped, [4, 4], {"w": w})["swapped"]


def test_what_no_lowering_writes_is_refused_at_once() -> None:
    """Three dimensions, windows with gaps in an average, pads that nobody knows, a bias for each row."""
    w3 = np.ones((2, 2, 1, 1, 1), np.float32)
    deep = [
        helper.make_node("Conv", ["x", "w3"], ["a"], name="deep"),
        helper.make_node("MaxPool", ["a"], ["b"], name="deep_pool", kernel_shape=[2, 2, 2]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="deep_mean"),
        helper.make_node("Flatten", ["c"], ["d"], name="flat"),
        helper.make_node("Gemm", ["d", "w"], ["y"], name="last"),
    ]
    found = small(deep, [1, 2, 4, 4, 4], {"w3": w3, "w": np.ones((2, 3), np.float32)})
    assert set(found) == {"deep", "deep_pool", "deep_mean"}
    assert all("it has 3 spatial dimensions, expected 1 or 2" in advice for advice in found.values())
    alone = [helper.make_node("Conv", ["x", "w3"], ["y"], name="deep")]
    assert set(small(alone, [1, 2, 4, 4, 4], {"w3": w3})) == {"deep"}
    gaps = [
        helper.make_node("AveragePool", ["x"], ["a"], name="gaps", kernel_shape=[2, 2], dilations=[2, 2]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="same", auto_pad="SAME_UPPER", strides=[5, 5]),
        helper.make_node("Conv", ["b", "w"], ["y"], name="last"),
    ]
    found = small(gaps, ["batch", 2, 11, 11], {"w": np.ones((2, 2, 2, 2), np.float32)})
    assert set(found) == {"gaps", "same"}
    assert "its dilations are [2, 2]: write it as a Conv" in found["gaps"]
    assert found["same"].startswith("auto_pad is 'SAME_UPPER', expected explicit pads")
    rows = [
        helper.make_node("Gemm", ["x", "w", "c"], ["a"], name="rows"),
        helper.make_node("Gemm", ["a", "w"], ["y"], name="last"),
    ]
    constants = {"w": np.ones((4, 4), np.float32), "c": np.ones((2, 4), np.float32)}
    assert "its bias has shape [2, 4], expected [4]" in small(rows, [2, 4], constants)["rows"]


def test_bounds_may_be_lists_of_one() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], name="relu6"),
        helper.make_node("Conv", ["b", "w"], ["y"], name="last"),
    ]
    constants = {"w": np.ones((2, 2, 1, 1)), "low": np.zeros(1), "high": np.full(1, 6)}
    assert small(nodes, ["batch", 2, 4, 4], {k: v.astype(np.float32) for k, v in constants.items()}) == {}


def test_nodes_that_change_the_size() -> None:
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["a"], name="resize"),  # [1, 2, 4, 4]
        helper.make_node("ReduceMean", ["a", "axes"], ["b"], name="reduce"),
        helper.make_node("Conv", ["x", "b"], ["c"], name="dynamic"),
        helper.make_node("Conv", ["c", "w"], ["y"], name="conv"),
    ]
    constants = {
        "scales": np.array([1, 1, 1, 0.5], np.float32),
        "axes": np.array([2]),
        "w": np.ones((2, 1, 1, 1), np.float32),
    }
    found = small(nodes, [1, 2, 4, 8], constants)
    assert set(found) == {"resize", "reduce", "dynamic"}
    assert "upsampling" in found["resize"]
    assert "the mean over all of height and width" in found["reduce"]
    assert "its weight is computed by the graph" in found["dynamic"]


def test_a_broadcast_add() -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"], name="mean"),
        helper.make_node("Add", ["x", "mean"], ["a"], name="broadcast"),
        helper.make_node("Conv", ["a", "w"], ["y"], name="conv"),
    ]
    found = small(nodes, ["batch", 2, 4, 4], {"w": np.ones((2, 2, 1, 1), np.float32)})
    assert "give both operands one shape" in found["broadcast"]


def test_other_domains() -> None:
    nodes = [
        helper.make_node("FusedThing", ["x"], ["a"], name="fused", domain="com.microsoft"),
        helper.make_node("Conv", ["a", "w"], ["y"], name="conv"),
    ]
    model = build_model(
        nodes, {"x": (np.float32, ["batch", 2, 4, 4])}, {"y": np.float32}, {"w": np.ones((2, 2, 1, 1), np.float32)}
    )
    # Nobody can infer a shape behind a node of an unknown domain.
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 2, 4, 4]))
    found = {info.name: info.advice for info in qpipe.inspect(model).nodes if info.advice}
    assert found["fused"] == "the domain 'com.microsoft' is not standard ONNX: replace the node by standard ops"
