"""Ops without any integer form, and what to do with each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NoReturn

import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.errors import LoweringError
from qpipe.nodes import STANDARD_DOMAINS, constant_array, describe
from qpipe.ops.base import Refusal, Role, Unweighted

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder

BEHIND: Final = "or keep it behind the last layer, where it stays float"
PREPROCESSING: Final = Refusal("normalization of the input: take it out of the network and give it as --mean and --std")
_ACTIVATION: Final = f"replace it by Relu or Clip(0, 6) and train on, {BEHIND}"
_STATISTICS: Final = "it computes statistics at run time: use BatchNormalization instead"
_IMAGE_SHAPE: Final = "it hangs on the batch or the image's size: export the model with a fixed input size"
_POST_PROCESSING: Final = "it belongs behind the last layer, where it stays float"
_CONTROL_FLOW: Final = "take the control flow out: export the branch that is used"
_RECURRENT: Final = "recurrent layers have no integer form here: keep this network in float"
_DEFAULT: Final = f"replace it by ops that have an integer form (Conv, Gemm, Relu, Add, pooling, ...), {BEHIND}"

_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    _ACTIVATION: (
        "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish",
        "Softplus", "Softsign", "ThresholdedRelu", "Erf",
    ),
    _STATISTICS: (
        "InstanceNormalization", "LayerNormalization", "GroupNormalization", "LRN", "MeanVarianceNormalization",
        "LpNormalization", "RMSNormalization",
    ),
    _IMAGE_SHAPE: ("Shape", "Size", "ConstantOfShape", "Range", "NonZero", "Expand"),
    _POST_PROCESSING: (
        "LogSoftmax", "ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "RoiAlign", "Hardmax", "Multinomial",
    ),
    _CONTROL_FLOW: ("If", "Loop", "Scan"),
    _RECURRENT: ("LSTM", "GRU", "RNN"),
}  # fmt: skip
_ADVICE: Final[dict[str, str]] = {
    **{op: advice for advice, ops in _GROUPS.items() for op in ops},
    "Softmax": f"attention has no integer form: replace it, {BEHIND}",
    "Sub": "write it as Add, with the sign in the weights of the layer before",
    "Sum": "write it as Adds of two tensors",
    "Mean": "write it as Adds, with the factor in the weights of the layers before",
    "Mul": f"a product of two activations (gating, squeeze and excitation) has no integer form: remove it, {BEHIND}",
    "GlobalMaxPool": "write it as a MaxPool whose kernel is the whole image",
    "ReduceMax": "write it as a MaxPool whose kernel is the whole image",
    "ReduceSum": "write it as the mean over height and width, with the factor in the next layer's weights",
    "Split": "write it as one Slice for each part",
    "Gather": "write it as a Slice where the indices are in a row",
    "DepthToSpace": "write it as Reshape, Transpose, Reshape, which carry integers",
    "SpaceToDepth": "write it as Reshape, Transpose, Reshape, which carry integers",
    "Resize": f"upsampling has no integer form yet: replace it by a strided Conv where it shrinks, {BEHIND}",
    "Upsample": f"upsampling has no integer form yet: {BEHIND.removeprefix('or ')}",
    "ConvTranspose": f"it has no integer form yet: {BEHIND.removeprefix('or ')}",
    "Cast": "take it out: the network computes in one type",
    "LpPool": "replace it by AveragePool or MaxPool",
}
_FACTORS: Final = frozenset({"Sub", "Mul", "Div"})
_LEAVES_PIXELS: Final = _FACTORS | {"Add", "Cast", "Identity"}


class Refused(Unweighted):
    """Every op that no other class here has."""

    op_types = ()
    role = Role.NONE

    def refusal(self, node: ir.Node) -> Refusal:
        """What to do with it, by the table."""
        if node.domain not in STANDARD_DOMAINS:
            return Refusal(f"the domain '{node.domain}' is not standard ONNX: replace the node by standard ops")
        if node.op_type in _FACTORS and any(constant_array(value) is not None for value in node.inputs):
            factor = "a factor or offset: put it into the weights and the bias of the Conv or Gemm before it"
            return PREPROCESSING if only_pixels(node) else Refusal(factor)
        return Refusal(_ADVICE.get(node.op_type, _DEFAULT))

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """All that it reads."""
        return tuple(value for value in node.inputs if value is not None)

    def fits_skip(self, node: ir.Node) -> bool:
        """A pool."""
        return node.op_type == "GlobalMaxPool"

    def torch(self, node: ir.Node) -> NoReturn:
        """LoweringError: it can't be trained."""
        raise LoweringError(f"{describe(node)}: no torch semantics for it")

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> NoReturn:
        """LoweringError."""
        raise LoweringError(f"{describe(layer.node)}: no integer form")

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> NoReturn:
        """LoweringError."""
        raise LoweringError(f"{describe(layer.node)}: no integer form")

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> NoReturn:
        """LoweringError."""
        raise LoweringError(f"{describe(layer.node)}: no integer form")


def only_pixels(node: ir.Node) -> bool:
    """Whether nothing but elementwise constants lies between the graph's input and this node."""
    stack = [value for value in node.inputs if value is not None and constant_array(value) is None]
    while stack:
        value = stack.pop()
        producer = value.producer()
        if producer is None:
            continue
        if producer.op_type not in _LEAVES_PIXELS:
            return False
        stack.extend(v for v in producer.inputs if v is not None and constant_array(v) is None)
    return True
