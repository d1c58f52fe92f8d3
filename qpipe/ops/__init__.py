"""Every op, each in one file: why it may have no integer form, torch semantics, grids, proof and lowerings."""

from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.nodes import constant_array, constant_input, describe
from qpipe.ops.activation import Activation
from qpipe.ops.activation_matmul import ActivationMatMul
from qpipe.ops.add import Add
from qpipe.ops.average_pool import AveragePool
from qpipe.ops.base import AnyOp, Refusal, Role
from qpipe.ops.batch_norm import BatchNormalization
from qpipe.ops.concat import Concat
from qpipe.ops.conv import Conv
from qpipe.ops.curve import CurveOp
from qpipe.ops.depth_to_space import DepthToSpace
from qpipe.ops.exponential import Exp, Log, Reciprocal
from qpipe.ops.exponential_units import Celu, Elu, Mish, Selu, Softplus, Softsign
from qpipe.ops.extremum import Max, Min
from qpipe.ops.forms import Operands, StandardForm
from qpipe.ops.function import ActivationFunction, Curve, Rectifier, Units, set_units, units_of
from qpipe.ops.gather import Expand, Gather, Tile
from qpipe.ops.gelu import Erf, Gelu
from qpipe.ops.gemm import Gemm
from qpipe.ops.hard_sigmoid import HardSigmoid
from qpipe.ops.hard_swish import HardSwish
from qpipe.ops.layer_norm import IntegerLayerNormalization, LayerNormalization
from qpipe.ops.leaky_relu import LeakyRelu
from qpipe.ops.length import Length
from qpipe.ops.lines import Abs, Bounds, Neg, OneSlope, ThresholdedRelu
from qpipe.ops.max_pool import MaxPool
from qpipe.ops.mul import Mul
from qpipe.ops.pad import Pad
from qpipe.ops.power import Power, Sqrt
from qpipe.ops.product import Product, TorchProduct
from qpipe.ops.quantizer_parts import stored
from qpipe.ops.quotient import Div, IntegerDiv
from qpipe.ops.reduction import LargestOrSmallest, MeanOrSum
from qpipe.ops.refused import Refused
from qpipe.ops.requantize import Requantize
from qpipe.ops.resize import Resize
from qpipe.ops.shape import Shape
from qpipe.ops.sigmoid import Sigmoid
from qpipe.ops.silu import SiLU
from qpipe.ops.slice import Slice
from qpipe.ops.softmax import IntegerSoftmax, Softmax
from qpipe.ops.sub import Sub
from qpipe.ops.tanh import Tanh
from qpipe.ops.waves import Cos, Sin
from qpipe.ops.where import Where

_ALL: Final[tuple[AnyOp, ...]] = (
    Conv(), Gemm(), BatchNormalization(), Add(), AveragePool(), MaxPool(), Concat(), Activation(), Shape(), Slice(),
    Pad(), Resize(), DepthToSpace(), Gather(), Tile(), Expand(), Requantize(),
    Sigmoid(), HardSigmoid(), Tanh(), LeakyRelu(), HardSwish(), SiLU(),
    Max(), Min(), Where(), MeanOrSum(), LargestOrSmallest(), Length(),
    Elu(), Selu(), Celu(), Softplus(), Mish(), Softsign(), Gelu(), Erf(),
    Bounds(), OneSlope(), ThresholdedRelu(), Abs(), Neg(), Power(), Sqrt(), Sin(), Cos(),
    Exp(), Log(), Reciprocal(),
    ActivationMatMul(), Mul(), Sub(), Div(), IntegerDiv(),
    Softmax(), IntegerSoftmax(), LayerNormalization(), IntegerLayerNormalization(),
)  # fmt: skip
_REFUSED: Final = Refused()

OPS: Final[dict[str, AnyOp]] = {op_type: op for op in reversed(_ALL) for op_type in op.op_types}
"""By ONNX's names, the first of each name; `op_of` looks a node up."""
_BY_NAME: Final = {name: tuple(op for op in _ALL if name in op.op_types) for name in OPS}
STANDARD_FORMS: Final[dict[str, StandardForm]] = {form.op_type: form for op in _ALL for form in op.standard_forms}
"""Of onnxruntime's own operators that the ops are lowered to, by their names."""
_TRAINED: Final = {operands.op_type: (op, operands) for op in _ALL for operands in op.parameters}


def op_of(node: ir.Node) -> AnyOp:
    """What is known of a node's op; of one that has no integer form, why."""
    for op in _BY_NAME.get(node.op_type, ()):
        if node.domain in op.domains and op.takes(node):
            return op
    return _REFUSED


def activation_of(node: ir.Node) -> ActivationFunction | None:
    """The function of a node that is an activation and has an integer form; None for any other."""
    op = op_of(node)
    return None if (found := op.activation(node)) is None or op.refusal(node) is not None else found


def curve_of(op_type: str, domain: str, numbers: Mapping[str, float]) -> Curve | None:
    """The function of one number that these words say; None where they say none."""
    for op in _BY_NAME.get(op_type, ()):
        if isinstance(op, CurveOp) and (curve := op.curve(op_type, domain, numbers)) is not None:
            return curve
    return None


def product_of(node: ir.Node) -> Product:
    """The op of a node that multiplies by weights; ModelError of any other."""
    op = op_of(node)
    if not isinstance(op, Product):
        raise ModelError(
            f"{describe(node)}: expected a {', '.join(name for name, p in OPS.items() if isinstance(p, Product))}"
        )
    return op


def has_weights(node: ir.Node) -> bool:
    """Whether it is a product of which one factor is constant, be it of a form that has no integers as it stands."""
    factors = node.inputs[:2] if isinstance(op_of(node), Product) else ()
    return any(constant_array(stored(value)) is not None for value in factors)


def becomes_weighted(node: ir.Node) -> bool:
    """`has_weights`, or a ConvTranspose of constants, of which `normalize` makes a Conv late."""
    is_transposed = node.op_type == "ConvTranspose" and node.domain == ""
    return has_weights(node) or (is_transposed and constant_input(node, 1) is not None)


def trained_operands(node: ir.Node) -> tuple[AnyOp, Operands] | None:
    """The op whose weight and bias a node has, be it written as an integer form of it, and where they are."""
    found, own = _TRAINED.get(node.op_type), op_of(node)
    return None if found is not None and own not in (found[0], _REFUSED) else found


__all__ = [
    "OPS",
    "STANDARD_FORMS",
    "ActivationFunction",
    "AnyOp",
    "Curve",
    "CurveOp",
    "Product",
    "Rectifier",
    "Refusal",
    "Role",
    "StandardForm",
    "TorchProduct",
    "Units",
    "activation_of",
    "becomes_weighted",
    "curve_of",
    "has_weights",
    "op_of",
    "product_of",
    "set_units",
    "trained_operands",
    "units_of",
]
