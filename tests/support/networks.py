"""The one way to write a small network: ONNX's text where nodes matter, `Network` where weights and data are random."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper, parser

from passes.normalize import normalize
from qpipe.ir.files.load import load_model

MICROSOFT = "com.microsoft"


def parse(graph: str, *, opsets: str = "", ir_version: int = 10, **constants: Any) -> onnx.ModelProto:
    """`parse("(float[N,3] x) => (float[] y) { [name] y = Conv<group=1>(x, w) }", w=array)`, as it is written.

    A name may stand before the graph. opsets: the imports, by default 21 and, where it is used, Microsoft's first.
    """
    opsets = opsets or '"": 21' + (f', "{MICROSOFT}": 1' if f"{MICROSOFT}." in graph else "")
    name = "small " if graph.startswith("(") else ""
    proto = parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{opsets}]> {name}{graph}")
    proto.graph.initializer.extend(tensors(constants))
    return proto


def build(graph: str, **constants: Any) -> ir.Model:
    """A graph as `parse` takes it: checked, with inferred shapes, and else as it is written."""
    proto = onnx.shape_inference.infer_shapes(parse(graph, **constants))
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def float_model(name: str, shape: Sequence[int], nodes: Sequence[str], **constants: Any) -> ir.Model:
    """`x` float32 [N, *shape] through nodes as `parse` takes them to `y`, built."""
    sizes = ", ".join(str(size) for size in shape)
    return build(f"{name} (float[N, {sizes}] x) => (float[] y) {{ {' '.join(nodes)} }}", **constants)


def load(proto: onnx.ModelProto) -> ir.Model:
    """Loaded and normalized, as the verbs begin."""
    model = load_model(proto)
    normalize(model)
    return model


def checked(model: ir.Model) -> ir.Model:
    """As ONNX wants it, and its nodes in order."""
    ir.passes.common.CheckerPass()(model)
    positions = {node: index for index, node in enumerate(model.graph)}
    producers = [(v.producer(), node) for node in model.graph for v in node.inputs if v is not None]
    assert all(positions[producer] < positions[node] for producer, node in producers if producer is not None)
    return model


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def tensors(constants: dict[str, Any]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]


def scale_constants(**exponents_and_zero_points: tuple[int, int]) -> dict[str, np.ndarray]:
    """x=(exponent, zero point) gives the constants x_scale (float32 power of two) and x_zero (uint8)."""
    constants: dict[str, np.ndarray] = {}
    for name, (exponent, zero_point) in exponents_and_zero_points.items():
        constants[f"{name}_scale"] = np.float32(2.0**exponent)
        constants[f"{name}_zero"] = np.uint8(zero_point)
    return constants


def integers(*shape: int, seed: int = 0) -> np.ndarray:
    """Small whole numbers as float32: their sums and products are exact, so that outputs compare exactly."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


class Weights:
    """Random constants by name."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.constants: dict[str, Any] = {}

    def normal(self, name: str, *shape: int) -> None:
        fan_in = max(1, int(np.prod(shape[1:])))
        self.constants[name] = (self.rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    def batch_norm(self, name: str, channels: int) -> None:
        """gamma of both signs and one zero, beta, mean, variance under `name_g`, `_b`, `_m`, `_v`."""
        gamma = self.rng.standard_normal(channels)
        gamma[channels // 2] = 0
        for part, array in (
            ("g", gamma),
            ("b", self.rng.standard_normal(channels)),
            ("m", self.rng.standard_normal(channels)),
            ("v", self.rng.uniform(0.5, 2, channels)),
        ):
            self.constants[f"{name}_{part}"] = array.astype(np.float32)


class Network(Weights):
    """Collects nodes with random weights; every method that adds one returns the name of its output."""

    def __init__(self, *shape: int, batch: int | str = "N", seed: int = 0) -> None:
        """shape: of one input, without the batch."""
        super().__init__(seed)
        self.shape = (batch, *shape)
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, array: Any, name: str | None = None) -> str:
        name = name or f"c{len(self.constants)}"
        self.constants[name] = array
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
        given = helper.make_tensor_value_info("x", floats, self.shape)
        results = [helper.make_tensor_value_info(name, floats, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", [given], results, tensors(self.constants))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def model(self, *outputs: str) -> ir.Model:
        """Loaded and normalized."""
        return load(self.proto(*outputs))

    def inputs(self, count: int = 8, *, seed: int = 1, scale: float = 1.0) -> np.ndarray:
        draw = np.random.default_rng(seed).standard_normal((count, *self.shape[1:]))
        return (draw * scale).astype(np.float32)
