"""What to do with a node that has no integer form: one line for each case, for `qpipe inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

from qpipe.nodes import constant_array, constant_input, float_attribute, input_value, int_attribute, rank

BEHIND: Final = "or keep it behind the last layer, where it stays float"
_ACTIVATION: Final = f"replace it by Relu or Clip(0, 6) and train on, {BEHIND}"
_STATISTICS: Final = "it computes statistics at run time: use BatchNormalization instead"
_IMAGE_SHAPE: Final = "it hangs on the batch or the image's size: export the model with a fixed input size"
_POST_PROCESSING: Final = "it belongs behind the last layer, where it stays float"
_CONTROL_FLOW: Final = "take the control flow out: export the branch that is used"
_RECURRENT: Final = "recurrent layers have no integer form here: keep this network in float"
_DEFAULT: Final = f"replace it by ops that have an integer form (Conv, Gemm, Relu, Add, pooling, ...), {BEHIND}"

_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    _ACTIVATION: (
        "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish",
        "Tanh", "Softplus", "Softsign", "ThresholdedRelu", "Erf",
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
_ELEMENTWISE: Final = frozenset({"Add", "Sub", "Mul", "Div"})
_LEAVES_PIXELS: Final = _ELEMENTWISE | {"Cast", "Identity"}


def advise(node: ir.Node) -> str:
    """What to do so that the node, which has no integer form as it stands, has one."""
    if node.domain not in {"", "ai.onnx"}:
        return f"the domain '{node.domain}' is not standard ONNX: replace the node by standard ops"
    by_op = {
        "Conv": _weighted,
        "Gemm": _weighted,
        "MatMul": _weighted,
        "BatchNormalization": _batch_norm,
        "Clip": _clip,
        "Concat": _concat,
        "Pad": _pad,
        "MaxPool": _max_pool,
        "ReduceMean": _reduce_mean,
        **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Slice"), _arguments),
    }
    if node.op_type in by_op:
        return by_op[node.op_type](node)
    if node.op_type in _ELEMENTWISE:
        return _elementwise(node)
    return _ADVICE.get(node.op_type, _DEFAULT)


def _elementwise(node: ir.Node) -> str:
    has_constant = any(constant_array(value) is not None for value in node.inputs)
    if has_constant and _only_pixels(node):
        return "normalization of the input: take it out of the network and give it as --mean and --std"
    if node.op_type == "Add":
        if has_constant:
            return "an Add of a constant: put it into the bias of the Conv or Gemm before it"
        return "it broadcasts: give both operands one shape (a constant belongs into the bias of the layer before)"
    if has_constant:
        return "a factor or offset: put it into the weights and the bias of the Conv or Gemm before it"
    return _ADVICE.get(node.op_type, _DEFAULT)


def _only_pixels(node: ir.Node) -> bool:
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


def _weighted(node: ir.Node) -> str:
    weight = input_value(node, 1)
    if weight is None or constant_array(node.inputs[0]) is not None:
        return "its first operand is a constant: exchange the operands, transposed, so that the weight is second"
    if constant_array(weight) is None:
        if node.op_type == "Conv":
            return "its weight is computed by the graph: export the model with constant weights"
        return f"a product of two activations (attention) has no integer form: replace it, {BEHIND}"
    if input_value(node, 2) is not None and constant_input(node, 2) is None:
        return "its bias is computed by the graph: export the model with a constant one, or write an Add behind it"
    if node.op_type == "MatMul":
        return f"its weight has {rank(weight)} dimensions, expected a matrix: write it as one MatMul for each matrix"
    odd = [f"{name} is {value:g}" for name in ("alpha", "beta") if (value := float_attribute(node, name, 1.0)) != 1]
    if int_attribute(node, "transA", 0):
        odd.append("transA is 1")
    return f"{', '.join(odd)}: put the factors into the weights and the bias, and transpose before it"


def _batch_norm(node: ir.Node) -> str:
    if int_attribute(node, "training_mode", 0):
        return "it is in training mode: export the model in evaluation mode (model.eval())"
    if any(constant_array(value) is None for value in node.inputs[1:5]):
        return "its statistics are computed by the graph: export the model with constant ones"
    return f"its input has {rank(node.inputs[0])} dimensions, expected channels in the second one"


def _clip(node: ir.Node) -> str:
    low, high = (constant_input(node, index) for index in (1, 2))
    found = ", ".join("none" if bound is None else f"{float(bound):g}" for bound in (low, high))
    return f"its bounds are ({found}), expected constants from 0, such as Clip(0, 6): replace it and train on, {BEHIND}"


def _concat(_: ir.Node) -> str:
    return "it joins a constant: export the model so that the constant lies in the weights of a layer"


def _pad(node: ir.Node) -> str:
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return f"mode '{mode.as_string()}': pad with zeros and train on"
    fill = constant_input(node, 2)
    if fill is not None and fill.any():
        return f"it fills in {float(fill.reshape(-1)[0]):g}: pad with zeros and train on"
    return "its pads are computed by the graph: export the model with a fixed input size"


def _max_pool(_: ir.Node) -> str:
    return "its indices are used: use its first output only"


def _reduce_mean(_: ir.Node) -> str:
    return f"only the mean over all of height and width has an integer form: use that, {BEHIND}"


def _arguments(_: ir.Node) -> str:
    return "its arguments are computed by the graph: export the model with a fixed input size"
