"""A small residual network for 8x8 digits, with random weights, that tests may bend in three places."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import qpipe
from support.networks import parse

CHANNELS = 8
CLASSES = 10
INPUT_SHAPE = (1, 8, 8)
PREPROCESS = {"mean": (0.3,), "std": (0.38,)}


def digits_model(
    *,
    shape: Sequence[int | str] = ("batch", *INPUT_SHAPE),
    between: Sequence[str] = (),
    behind: Sequence[str] = (),
    constants: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """Float logits [batch, 10] of `x`.

    Both in ONNX's text: between: nodes that read `block` [N, 8, H, W] and give `between`, where the last Conv reads;
    behind: nodes that read `logits` and give `answer`. constants: their initializers.
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
    nodes = [
        "[conv1] c1 = Conv<pads=[1,1,1,1]>(x, w1)",
        f"[norm1] n1 = BatchNormalization(c1, {', '.join(_names('n1'))})",
        "[relu1] r1 = Relu(n1)",
        "[conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2)",
        f"[norm2] n2 = BatchNormalization(c2, {', '.join(_names('n2'))})",
        "[add] sum = Add(n2, r1)",
        "[relu2] block = Relu(sum)",
        *between,
        f"[conv3] c3 = Conv<strides=[2,2], pads=[1,1,1,1]>({'between' if between else 'block'}, w3, b3)",
        "[relu3] r3 = Relu(c3)",
        "[pool] pooled = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r3)",
        "[flatten] features = Flatten(pooled)",
        "[linear] logits = Gemm(features, w4, b4)",
        *behind,
    ]
    sizes = ", ".join(str(size) for size in shape)
    output = "answer" if behind else "logits"
    return parse(f"(float[{sizes}] x) => (float[] {output}) {{ {' '.join(nodes)} }}", **made)


def write_quantized_digits(folder: Path) -> None:
    """net.onnx, and net.qdq.onnx as `calibrate` makes it."""
    onnx.save_model(digits_model(), folder / "net.onnx")
    qpipe.calibrate(folder / "net.onnx", "digits", folder / "net.qdq.onnx", preprocess=PREPROCESS, batches=1)


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
