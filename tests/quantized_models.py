"""Small float networks, quantized the way the verbs do it."""

import warnings
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser

from passes.calibrate_percentile import CalibratePercentile
from passes.finalize import Finalize
from passes.insert_quantizers import InsertQuantizers
from passes.normalize import normalize


def float_model(graph: str, shape: Sequence[int], nodes: Sequence[str], **constants: np.ndarray) -> ir.Model:
    """`x` float32 [N, *shape] through the nodes, in ONNX's textual form, to `y`."""
    sizes = ", ".join(str(size) for size in shape)
    text = f"{graph} (float[N, {sizes}] x) => (float[] y) {{ {' '.join(nodes)} }}"
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def quantized(
    model: ir.Model, *, bits: int = 8, cpu: str = "portable", inputs: Sequence[np.ndarray] | None = None
) -> ir.Model:
    """The trainable QDQ model, calibrated with `inputs` or with normal noise."""
    normalize(model)
    shape = [int(size) for size in model.graph.inputs[0].shape[1:]]
    if inputs is None:
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal((16, *shape)).astype(np.float32) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tensor of zeros is nothing special in a random network
        CalibratePercentile(inputs=inputs, activation_bits=bits)(model)
        InsertQuantizers(weight_bits=bits, activation_bits=bits, cpu=cpu)(model)
    return model


def finalized(model: ir.Model, **options) -> ir.Model:
    """The specification that a lowering is compared with."""
    quantized(model, **options)
    Finalize()(model)
    return model


class Weights:
    """Random constants by name, for the textual form."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.constants: dict[str, np.ndarray] = {}

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


def residual_network(seed: int = 0) -> ir.Model:
    """Conv, BatchNormalization, Relu, a residual block, a global pool and a Gemm: a ResNet in little."""
    w = Weights(seed)
    w.normal("w1", 16, 3, 3, 3)
    w.normal("w2", 16, 16, 3, 3)
    w.normal("w3", 10, 16)
    w.normal("b3", 10)
    for name in ("n1", "n2"):
        w.batch_norm(name, 16)
    nodes = [
        "c1 = Conv<pads=[1,1,1,1]>(x, w1)",
        "n1 = BatchNormalization(c1, n1_g, n1_b, n1_m, n1_v)",
        "r1 = Relu(n1)",
        "c2 = Conv<pads=[1,1,1,1]>(r1, w2)",
        "n2 = BatchNormalization(c2, n2_g, n2_b, n2_m, n2_v)",
        "a = Add(n2, r1)",
        "r2 = Relu(a)",
        "p = GlobalAveragePool(r2)",
        "f = Flatten(p)",
        "y = Gemm<transB=1>(f, w3, b3)",
    ]
    return float_model("residual", (3, 8, 8), nodes, **w.constants)
