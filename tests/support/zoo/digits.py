"""A small residual network for 8x8 digits, with random weights, that tests may bend in three places."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

import qpipe
from support.zoo.linear import build_model

CHANNELS = 8
CLASSES = 10
INPUT_SHAPE = (1, 8, 8)


def digits_model(
    *,
    shape: Sequence[int | str] = ("batch", *INPUT_SHAPE),
    between: Sequence[onnx.NodeProto] = (),
    behind: Sequence[onnx.NodeProto] = (),
    constants: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """Float logits [batch, 10] of `x`.

    between: nodes that read `block` [N, 8, H, W] and give `between`, where the last Conv reads. behind: nodes that read
    `logits` and give `answer`. constants: their initializers.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "w1": _kernel(rng, CHANNELS, shape[1] if isinstance(shape[1], int) else 1),
        "w2": _kernel(rng, CHANNELS, CHANNELS),
        "w3": _kernel(rng, 2 * CHANNELS, CHANNELS),
        "b3": rng.normal(0, 0.1, 2 * CHANNELS).astype(np.float32),
        "w4": rng.normal(0, 0.1, (8 * CHANNELS, CLASSES)).astype(np.float32),
        "b4": rng.normal(0, 0.1, CLASSES).astype(np.float32),
        **_statistics(rng, "n1", variance=2.0),
        **_statistics(rng, "n2", variance=1.0),
        **(constants or {}),
    }
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", **same),
        helper.make_node("BatchNormalization", ["c1", *_names("n1")], ["n1"], name="norm1"),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", **same),
        helper.make_node("BatchNormalization", ["c2", *_names("n2")], ["n2"], name="norm2"),
        helper.make_node("Add", ["n2", "r1"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["block"], name="relu2"),
        *between,
        helper.make_node(
            "Conv", ["between" if between else "block", "w3", "b3"], ["c3"], name="conv3", strides=[2, 2], **same
        ),
        helper.make_node("Relu", ["c3"], ["r3"], name="relu3"),
        helper.make_node("AveragePool", ["r3"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["features"], name="flatten"),
        helper.make_node("Gemm", ["features", "w4", "b4"], ["logits"], name="linear"),
        *behind,
    ]
    output = "answer" if behind else "logits"
    return build_model(nodes, {"x": (np.float32, shape)}, {output: np.float32}, made)


def write_quantized_digits(folder: Path) -> None:
    """net.onnx, and net.qdq.onnx as `calibrate` makes it."""
    onnx.save_model(digits_model(), folder / "net.onnx")
    preprocess = {"mean": (0.3,), "std": (0.38,)}
    qpipe.calibrate(folder / "net.onnx", "digits", folder / "net.qdq.onnx", preprocess=preprocess, batches=1)


def _kernel(rng: np.random.Generator, channels: int, channels_in: int) -> np.ndarray:
    return rng.normal(0, (2 / (9 * channels_in)) ** 0.5, (channels, channels_in, 3, 3)).astype(np.float32)


def _names(norm: str) -> list[str]:
    return [f"{norm}_{part}" for part in ("gamma", "beta", "mean", "variance")]


def _statistics(rng: np.random.Generator, norm: str, *, variance: float) -> dict[str, Any]:
    """variance: about what the layer before gives for normalized inputs, so that training starts well."""
    near_one = rng.uniform(0.8, 1.2, (4, CHANNELS)).astype(np.float32)
    gamma, beta, mean, spread = near_one
    values = (gamma, beta - 1, mean - 1, spread * np.float32(variance))
    return dict(zip(_names(norm), values, strict=True))
