"""One matrix: the smallest network that classifies."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from support.networks import parse


def linear_model(
    weight: np.ndarray, *, batch: int | str = "batch", name: str = "logits", metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """Float logits: `x` float32 [batch, K] times `weight` [K, classes]."""
    text = f"(float[{batch}, {weight.shape[0]}] x) => (float[] {name}) {{ {name} = MatMul(x, w) }}"
    model = parse(text, w=weight.astype(np.float32))
    onnx.helper.set_model_props(model, dict(metadata or {}))
    return model


def integer_linear_model(weight: np.ndarray, shape: Sequence[int], metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Int32 logits of uint8 pixels of `shape` ([H, W, C] or [C, H, W]), flattened, times int8 `weight` [K, classes]."""
    sizes = ", ".join(str(size) for size in shape)
    nodes = "flat = Flatten(pixels) logits = MatMulInteger(flat, w)"
    model = parse(f"(uint8[batch, {sizes}] pixels) => (int32[] logits) {{ {nodes} }}", w=weight.astype(np.int8))
    onnx.helper.set_model_props(model, dict(metadata))
    return model
