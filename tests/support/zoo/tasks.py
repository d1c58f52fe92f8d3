"""A small network and data for each task: what is bright, and where, is what it has to tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from support.networks import Network

SIDE = 8


@dataclass(frozen=True)
class Toy:
    """output: the ops behind the last layer. metric: what `qpipe` calls it. said: a part of what it derives."""

    name: str
    columns: int
    labels: np.ndarray
    metric: str
    said: str
    behind: tuple[str, ...] = ()
    is_dense: bool = False

    def model(self) -> onnx.ModelProto:
        net = Network(1, SIDE, SIDE, seed=3)
        x = net.op("Relu", net.conv("x", 1, 8, bias=True))
        y = net.conv(x, 8, self.columns, (1, 1), bias=True) if self.is_dense else flat_head(net, x, self.columns)
        for op in self.behind:
            y = net.op(op, y, **({"axis": 1} if op == "Softmax" else {}))
        return net.proto(y)

    def data(self) -> Mapping[str, np.ndarray]:
        return {"images": IMAGES, "labels": self.labels}

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The files of the model and of the data."""
        onnx.save_model(self.model(), folder / "net.onnx")
        np.savez(folder / "data.npz", **self.data())
        return folder / "net.onnx", folder / "data.npz"


def flat_head(net: Network, x: str, columns: int) -> str:
    return net.gemm(net.op("Flatten", net.op("AveragePool", x, kernel_shape=[4, 4], strides=[4, 4])), 32, columns)


def _images() -> tuple[np.ndarray, np.ndarray]:
    """96 dark images of noise, some quarters of which are bright: which ones, bool `[96, 4]`."""
    rng = np.random.default_rng(0)
    bright = rng.random((96, 4)) < 0.5
    images = rng.integers(0, 60, (96, SIDE, SIDE, 1))
    for quarter in range(4):
        rows, columns = (slice(4 * part, 4 * part + 4) for part in divmod(quarter, 2))
        images[:, rows, columns] += 150 * bright[:, quarter, None, None, None]
    return images.astype(np.uint8), bright


IMAGES, BRIGHT = _images()
SHARE = (BRIGHT @ np.array([0.9, -0.4, 0.3, 0.1])).astype(np.float32)
TOYS = (
    Toy("regression", 1, SHARE, "mse", "mean squared error, mse: derived from fractional labels"),
    Toy("multi-label", 4, BRIGHT.astype(np.int64), "f1", "binary cross entropy of each label", ("Sigmoid",)),
    Toy("binary", 1, BRIGHT[:, 0], "accuracy", "binary cross entropy before Sigmoid", ("Sigmoid",)),
    Toy(
        "segmentation",
        2,
        (IMAGES[..., 0] > 100).astype(np.int64),
        "miou",
        "cross entropy per pixel, miou: derived from 2 classes and maps of classes [8, 8]",
        is_dense=True,
    ),
    Toy("classes", 4, BRIGHT.argmax(1).astype(np.float64), "top1", "cross entropy before Softmax", ("Softmax",)),
    Toy("negated", 4, BRIGHT.argmax(1), "top1", "cross entropy, top-1: derived from 4 classes", ("Neg",)),
    Toy("rates", 2, BRIGHT[:, :2] * 0.25 + 0.1, "mse", "mean squared error", ("Sigmoid",)),
)
