"""Small float networks with random weights, and the way from them to integers: what tests of the numeric core share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import helper, numpy_helper

from passes.calibrate_percentile import CalibratePercentile
from passes.finalize import Finalize
from passes.insert_quantizers import InsertQuantizers
from passes.normalize import normalize
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_object
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.runtime.exact_pairs import open_exact
from qpipe.runtime.session import open_session
from qpipe.train.executor import Executor


class Network:
    """Collects nodes; every method returns the name of its output."""

    def __init__(self, *shape: int, batch: int | str = "N", seed: int = 0) -> None:
        """shape: of one input, without the batch."""
        self.rng = np.random.default_rng(seed)
        self.shape = (batch, *shape)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, array: Any, name: str | None = None) -> str:
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def floats(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def op(self, op_type: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        name = name or f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [f"{name}_y"], name, **attributes))
        return f"{name}_y"

    def conv(
        self, x: str, fan_in: int, out: int, kernel: Sequence[int] = (3, 3), *, bias: bool = False, groups: int = 1,
        **attributes: Any,
    ) -> str:  # fmt: skip
        """fan_in: channels in. 3×3 kernels get pads of 1 unless told otherwise."""
        shape = (out, fan_in // groups, *kernel)
        weight = self.constant(self.floats(*shape, scale=(2 / np.prod(shape[1:])) ** 0.5))
        extra = [self.constant(self.floats(out, scale=0.3))] if bias else []
        attributes.setdefault("pads", [(k - 1) // 2 for k in kernel] * 2)
        return self.op("Conv", x, weight, *extra, group=groups, **attributes)

    def norm(self, x: str, channels: int, gamma: np.ndarray | None = None) -> str:
        """BatchNormalization; gamma is random and positive if it is not given."""
        gamma = np.abs(self.floats(channels, scale=0.5)) + 0.5 if gamma is None else gamma
        tensors = (gamma, self.floats(channels, scale=0.3), self.floats(channels, scale=0.3),
                   np.abs(self.floats(channels)) + 0.5)  # fmt: skip
        return self.op("BatchNormalization", x, *(self.constant(np.float32(t)) for t in tensors))

    def gemm(self, x: str, fan_in: int, out: int, *, bias: bool = True, transposed: bool = True) -> str:
        weight = self.floats(*((out, fan_in) if transposed else (fan_in, out)), scale=fan_in**-0.5)
        extra = [self.constant(self.floats(out, scale=0.3))] if bias else []
        return self.op("Gemm", x, self.constant(weight), *extra, transB=int(transposed))

    def relu6(self, x: str, bound: float = 6.0) -> str:
        return self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(bound)))

    def head(self, x: str, channels: int, classes: int = 5) -> str:
        """Global average, flat, Gemm."""
        return self.gemm(self.op("Flatten", self.op("GlobalAveragePool", x)), channels, classes)

    def proto(self, *outputs: str) -> onnx.ModelProto:
        floats = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes, "network", [helper.make_tensor_value_info("x", floats, self.shape)],
            [helper.make_tensor_value_info(name, floats, None) for name in outputs], self.initializers,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def model(self, *outputs: str) -> ir.Model:
        """Loaded and normalized."""
        model = load_model(self.proto(*outputs))
        normalize(model)
        return model

    def inputs(self, count: int = 8, *, seed: int = 1, scale: float = 1.0) -> np.ndarray:
        draw = np.random.default_rng(seed).standard_normal((count, *self.shape[1:]))
        return (draw * scale).astype(np.float32)


def quantized(model: ir.Model, inputs: np.ndarray, **options: Any) -> ir.Model:
    """Calibrated in place on one batch; options are those of InsertQuantizers."""
    widths = {name: options[name] for name in ("activation_bits", "skip_bits", "layers") if name in options}
    CalibratePercentile(inputs=[inputs], **widths)(model)
    InsertQuantizers(**options)(model)
    ir.passes.common.CheckerPass()(model)
    return model


def finalized(model: ir.Model) -> ir.Model:
    """A finalized copy, checked."""
    final = model.clone()
    Finalize()(final)
    ir.passes.common.CheckerPass()(final)
    return final


def run(model: ir.Model, inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs on onnxruntime at default optimization, on one thread.

    A file that waives the pair condition saturates on CPUs without VNNI, as it says; there it runs on other kernels.
    """
    waived = (get_object(model, QUANTIZATION) or {}).get("cpu") == "vnni"
    session = (open_exact if waived else open_session)(model, threads=1)
    return session.run(None, {session.get_inputs()[0].name: inputs})


def evaluated(executor: Executor, inputs: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        return [y.numpy() for y in executor.eval()(torch.from_numpy(inputs))]


def assert_exact(model: ir.Model, inputs: np.ndarray, executor: Executor | None = None) -> None:
    """The executor's evaluation of a QDQ model equals its finalized file on onnxruntime, value for value."""
    ours = evaluated(executor or Executor(model), inputs)
    theirs = run(finalized(model), inputs)
    assert len(ours) == len(theirs) == len(model.graph.outputs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.astype(np.float32).reshape(b.shape), b)
        assert np.ptp(b) > 0  # a constant would prove nothing


def train_steps(executor: Executor, inputs: np.ndarray, steps: int = 3, lr: float = 0.05) -> None:
    """A few steps of SGD towards class 0, 1, 2, ..."""
    torch.manual_seed(0)
    trained = [p for p in executor.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr, 0.9)
    executor.train()
    for _ in range(steps):
        outputs = [y.flatten(1) for y in executor(torch.from_numpy(inputs))]
        labels = [torch.arange(len(inputs)) % y.shape[1] for y in outputs]
        loss = sum(torch.nn.functional.cross_entropy(y, t) for y, t in zip(outputs, labels, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    executor.eval()
