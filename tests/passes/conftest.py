from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper, parser

Build = Callable[..., ir.Model]
Run = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="session")
def build() -> Build:
    """`build("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }", w=array)`: a checked model at opset 21."""

    def make(graph: str, **initializers: np.ndarray) -> ir.Model:
        proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> graph {graph}')
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
        proto = onnx.shape_inference.infer_shapes(proto)
        onnx.checker.check_model(proto)
        return ir.from_proto(proto)

    return make


@pytest.fixture(scope="session")
def run() -> Run:
    """Outputs of the model on onnxruntime, after onnx's full check."""

    def execute(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # The graph as it is written, on one thread: what differs is the pass.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, inputs)

    return execute


@pytest.fixture(scope="session")
def integers() -> Callable[..., np.ndarray]:
    """Small whole numbers as float32: their sums and products are exact, so that outputs compare exactly."""

    def draw(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)

    return draw
