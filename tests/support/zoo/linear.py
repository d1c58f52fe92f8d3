"""Small ONNX models for tests that run on onnxruntime."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"


def build_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[Any, Sequence[int | str]]],
    outputs: Mapping[str, Any],
    constants: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """inputs: name -> (numpy type, shape); outputs: name -> numpy type; constants: name -> array."""
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
        for name, (dtype, shape) in inputs.items()
    ]
    results = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)
        for name, dtype in outputs.items()
    ]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "small", given, results, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(model, dict(metadata or {}))
    return model


def linear_model(
    weight: np.ndarray, *, batch: int | str = "batch", name: str = "logits", metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """Float logits: `x` float32 [batch, K] times `weight` [K, classes]."""
    nodes = [helper.make_node("MatMul", ["x", "w"], [name])]
    inputs = {"x": (np.float32, [batch, weight.shape[0]])}
    return build_model(nodes, inputs, {name: np.float32}, {"w": weight.astype(np.float32)}, metadata)


def integer_linear_model(weight: np.ndarray, shape: Sequence[int], metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Int32 logits of uint8 pixels of `shape` ([H, W, C] or [C, H, W]), flattened, times int8 `weight` [K, classes]."""
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMulInteger", ["flat", "w"], ["logits"]),
    ]
    inputs = {"pixels": (np.uint8, ["batch", *shape])}
    return build_model(nodes, inputs, {"logits": np.int32}, {"w": weight.astype(np.int8)}, metadata)


def quantize(data: str, output: str, scale: str, zero_point: str) -> onnx.NodeProto:
    return helper.make_node("QuantizeLinear", [data, scale, zero_point], [output])


def dequantize(data: str, output: str, scale: str, zero_point: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", [data, scale, zero_point], [output], **attributes)


def scale_constants(**exponents_and_zero_points: tuple[int, int]) -> dict[str, np.ndarray]:
    """x=(exponent, zero point) gives the constants x_scale (float32 power of two) and x_zero (uint8)."""
    constants: dict[str, np.ndarray] = {}
    for name, (exponent, zero_point) in exponents_and_zero_points.items():
        constants[f"{name}_scale"] = np.float32(2.0**exponent)
        constants[f"{name}_zero"] = np.uint8(zero_point)
    return constants
