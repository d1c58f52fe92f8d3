"""Every quantized op, each in one file: torch semantics, carried grid and lowerings side by side."""

from qpipe.ops.activation import Activation
from qpipe.ops.add import Add
from qpipe.ops.average_pool import AveragePool
from qpipe.ops.base import AnyOp, Product
from qpipe.ops.batch_norm import BatchNormalization
from qpipe.ops.concat import Concat
from qpipe.ops.conv import Conv
from qpipe.ops.gemm import Gemm
from qpipe.ops.max_pool import MaxPool
from qpipe.ops.pad import Pad
from qpipe.ops.requantize import Requantize
from qpipe.ops.shape import Shape
from qpipe.ops.slice import Slice

_ALL = (Conv, Gemm, BatchNormalization, Add, AveragePool, MaxPool, Concat, Activation, Shape, Slice, Pad, Requantize)
OPS: dict[str, AnyOp] = {op_type: op() for op in _ALL for op_type in op.op_types}
PRODUCTS: dict[str, Product] = {op_type: op for op_type, op in OPS.items() if isinstance(op, Product)}

__all__ = ["OPS", "PRODUCTS"]
