"""Infer shapes and compute whatever depends on constants alone: shape arithmetic, reshaped weights, padding lists.

Three things are never folded. QuantizeLinear and DequantizeLinear keep a Q/DQ pair what it is. The Cast of a packed
constant to int8 is how weights of 4 and 2 bits are stored; folding it would double the file. BatchNormalization of
activations is not constant, and none of onnxscript's fusions runs here, so it stays a node; one of a constant, in
training mode, is how PyTorch writes weights that are standardized (Qiao et al. 2019): it is folded. Where quantizers
stand at weights alone, the network is a float one that stores them as integers, and the first two are folded into the
numbers that they stand for.

How large a result becomes is known before it is computed, from the shapes, so that a few bytes can't fill the memory.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import ModelError, one_line
from qpipe.ir.files.checks import check_sizes
from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.files.quiet import quiet
from qpipe.ir.files.upgrade import OPSET
from qpipe.nodes import AnyArray, constant_array, group_count, initializer, input_value, static_shape
from qpipe.ops.conv import convolved
from qpipe.ops.quantizer_parts import quantizes_data
from qpipe.ops.resize import resized, scalings
from qpipe.ops.windows import window_refusal

_QUANTIZATION_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_PACKED = frozenset({ir.DataType.INT2, ir.DataType.UINT2, ir.DataType.INT4, ir.DataType.UINT4})
# Their results are never longer than what goes in, times its rank; onnx doesn't say how long.
_DEPENDS_ON_NUMBERS = frozenset({"NonZero", "Compress", "Unique"})
# What onnx's evaluator computes in Python's loops, element by element.
_SLOW = frozenset(
    {"Conv", "ConvInteger", "ConvTranspose", "QLinearConv", "DeformConv", "Einsum", "LSTM", "GRU", "RNN", "DFT", "STFT",
     "AveragePool", "MaxPool", "LpPool", "MaxUnpool", "NonMaxSuppression", "RoiAlign", "GridSample", "Col2Im", "Resize",
     "Upsample", "MelWeightMatrix", "TfIdfVectorizer", "RegexFullMatch", "Attention"}
)  # fmt: skip
# Made for `[N, C, ...]`: onnx's evaluator computes them of any rank, which no runtime takes.
_OF_IMAGES = frozenset(
    {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "MeanVarianceNormalization",
     "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "DepthToSpace", "SpaceToDepth"}
)  # fmt: skip
_DIMS = {"InstanceNormalization": (3, 5), "GlobalAveragePool": (3, 5), "DepthToSpace": (4, 4), "SpaceToDepth": (4, 4)}
"""Of those the ranks that runtimes take."""
# onnxscript folds what gives one result alone; a LayerNormalization's statistics are results as well.
_MORE_RESULTS = frozenset({"LayerNormalization", "Split", "BatchNormalization"})
_MOST_PRODUCTS = 2**32
"""Multiplications of a MatMul or Gemm of constants."""
_MOST_TAPS = 2**26
"""Numbers that the window of a Conv of constants sees, each as often as it does."""
_MOST_GROWTH = 2**27
"""Elements that all folded results of a model may have beyond what they take the place of."""
# onnx's inference reads the numbers of shapes, repeats and the like, which are as long as a rank at most.
_SHORT = 64
# Folding one constant can make the next one's shape known; in practice the second round finds nothing.
_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class FoldConstants(ir.passes.InPlacePass):
    """Constant expressions become initializers, where the result has at most `output_size_limit` elements more."""

    name: ClassVar[str] = "fold-constants"
    output_size_limit: int = 2**22

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer and fold until nothing changes; ModelError on a tensor that is too large for any memory."""
        modified = False
        for _ in range(_ROUNDS):
            inferred, is_complete = infer_shapes(model)
            folded = self._fold(model)
            modified |= inferred or folded
            if is_complete and not (inferred or folded):
                break
        _tidy(model)
        check_sizes(ir.convenience.create_value_mapping(model.graph).values())
        return ir.passes.PassResult(model, modified)

    def _fold(self, model: ir.Model) -> bool:
        from onnxscript.optimizer import fold_constants_ir

        folding = _Folding(
            model.opset_imports.get("", OPSET), self.output_size_limit, keeps_codes=quantizes_data(model.graph)
        )
        try:
            with quiet("onnx_ir", "onnxscript"):
                folded = fold_constants_ir(
                    model,
                    # A weight that is reshaped or transposed in the graph may have any size.
                    input_size_limit=2**62,
                    output_size_limit=self.output_size_limit,
                    should_fold=folding.is_worth_it,
                )
                more = [_fold_results(model.graph, node) for node in model.graph if folding.gives_more(node)]
                more += [_fold_resize(model.graph, node) for node in model.graph if folding.resizes(node)]
                more += [_fold_conv(model.graph, node) for node in model.graph if folding.convolves(node)]
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"constants can't be folded: {one_line(error)}") from error
        return bool(folded.modified) or any(more)


class _Folding:
    """Decides, node by node in the order of folding, from the sizes alone."""

    def __init__(self, opset: int, output_size_limit: int, *, keeps_codes: bool) -> None:
        self.opset, self.keeps_codes = opset, keeps_codes
        self.output_size_limit = output_size_limit
        self.growth = 0

    def is_worth_it(self, node: ir.Node) -> bool:
        """Whether the result of a node whose inputs are constant is to be computed and stored."""
        constants = [value for value in node.inputs if value is not None]
        if node.domain != "" or node.op_type in _SLOW or len(node.outputs) != 1:
            return False
        if node.op_type in _OF_IMAGES:
            least, most = _DIMS.get(node.op_type, (1, 0))
            if not least <= len(_tensor(constants[0]).shape) <= most:
                return False
        is_code = node.op_type in _QUANTIZATION_OPS or any(value.dtype in _PACKED for value in constants)
        if is_code and self.keeps_codes:
            return False
        size = self._result_size(node, constants)
        if size is None or _products(node, size) > _MOST_PRODUCTS:
            return False
        return self._fits(size, constants)

    def gives_more(self, node: ir.Node) -> bool:
        """Whether it is to be folded, and is one of which onnx's evaluator gives several results."""
        constants = [value for value in node.inputs if value is not None]
        if node.op_type not in _MORE_RESULTS or any(value.const_value is None for value in constants):
            return False
        if node.op_type == "BatchNormalization":
            # By its own statistics, in training mode, too. Runtimes take it of three axes and more.
            return len(_tensor(constants[0]).shape) > 2 and self._fits(_size(constants[0]), constants)
        if len(node.outputs) == 1:
            return self.is_worth_it(node)
        # The sizes of a Split's parts are those of the whole.
        is_plain = node.op_type == "Split" and node.domain == "" and constants[0].dtype not in _PACKED
        return is_plain and self._fits(_size(constants[0]), constants)

    def resizes(self, node: ir.Node) -> bool:
        """Whether it is a Resize of a constant, such as of embeddings of places, that is to be folded."""
        if node.op_type != "Resize" or node.domain != "" or any(constant_array(v) is None for v in node.inputs if v):
            return False
        source = node.inputs[0]
        sizes = None if source is None else static_shape(source)
        if source is None or sizes is None:
            return False
        new = [size or 0 for size in sizes]
        for axis, along in scalings(node, new).items():
            new[axis] = along.new
        return self._fits(math.prod(new), [source])

    def convolves(self, node: ir.Node) -> bool:
        """Whether it is a Conv of a constant, such as of encodings of places, that is to be folded."""
        arrays = [constant_array(value) for value in node.inputs if value is not None]
        if node.op_type != "Conv" or node.domain != "" or any(array is None for array in arrays):
            return False
        constants = [value for value in node.inputs if value is not None]
        size = self._result_size(node, constants) if window_refusal(node) is None else None
        if size is None or any(array is None or array.dtype != np.float32 for array in arrays):
            return False
        outputs, *kernel = _tensor(constants[1]).shape.numpy()
        seen = size * math.prod(kernel) * group_count(node)
        return seen <= outputs * _MOST_TAPS and self._fits(size, constants)

    def _fits(self, size: int, constants: list[ir.Value]) -> bool:
        """Whether so many elements may take the place of these constants; if so, they are counted."""
        freed = sum(_size(value) for value in constants if len(value.uses()) == 1)
        grown = size - freed
        if (grown > 0 and size > self.output_size_limit) or self.growth + grown > _MOST_GROWTH:
            return False
        self.growth += grown
        return True

    def _result_size(self, node: ir.Node, constants: list[ir.Value]) -> int | None:
        """Elements of the result; None where onnx can't say."""
        if node.op_type in _DEPENDS_ON_NUMBERS:
            return sum(_size(value) * max(1, len(_tensor(value).shape)) for value in constants)
        types = {str(value.name): _type_proto(value) for value in constants}
        short = {str(value.name): ir.to_proto(_tensor(value)) for value in constants if _size(value) <= _SHORT}
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
            inferred = onnx.shape_inference.infer_node_outputs(schema, ir.to_proto(node), types, short)
            node.outputs[0].shape = ir.serde.deserialize_type_proto_for_shape(inferred[str(node.outputs[0].name)])
        except Exception:
            return None
        shape = static_shape(node.outputs[0])
        if shape is None or None in shape:
            return None
        # Nothing that reads it can be run, however it is computed.
        check_sizes(node.outputs)
        return math.prod(dim for dim in shape if dim is not None)


def _fold_results(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a node of constants by what its results are."""
    from onnx.reference import ReferenceEvaluator

    given = {str(value.name): _tensor(value).numpy() for value in node.inputs if value is not None}
    arrays = cast(list[AnyArray], ReferenceEvaluator(ir.to_proto(node), opsets={"": OPSET}).run(None, given))
    _become(graph, node, arrays)
    return True


def _fold_resize(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a Resize of a constant by what it gives; onnx's evaluator takes minutes for it."""
    source = constant_array(node.inputs[0])
    found = None if source is None else resized(node, source)
    if found is None:
        return False
    _become(graph, node, [found])
    return True


def _fold_conv(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a Conv of constants by what it gives."""
    x, weight, bias = (constant_array(input_value(node, index)) for index in range(3))
    assert x is not None
    assert weight is not None
    _become(graph, node, [convolved(node, x, weight, bias)])
    return True


def _become(graph: ir.Graph, node: ir.Node, arrays: list[AnyArray]) -> None:
    """Put constants in the place of a node's results."""
    for result, array in zip(node.outputs, arrays, strict=False):
        result.replace_all_uses_with(initializer(graph, str(result.name), array), replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None  # onnxscript asks about nodes of constants alone
    return value.const_value


def _size(value: ir.Value) -> int:
    return math.prod(_tensor(value).shape.numpy())


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    tensor = _tensor(value)
    return onnx.helper.make_tensor_type_proto(tensor.dtype, tensor.shape.numpy())


def _products(node: ir.Node, size: int) -> int:
    """Multiplications of a node whose result has this size: as many for each element as the summed axis is long."""
    if "MatMul" not in node.op_type and node.op_type != "Gemm":
        return size
    factor = node.inputs[0]
    return size * max(() if factor is None else _tensor(factor).shape.numpy(), default=1)


def _tidy(model: ir.Model) -> None:
    """Give folded values the shape of their tensor, and drop the note that onnxscript leaves on them."""
    from onnxscript.optimizer import FOLDED_FROM_KEY

    for value in ir.convenience.create_value_mapping(model.graph).values():
        value.metadata_props.pop(FOLDED_FROM_KEY, None)
        if value.const_value is not None and value.is_initializer():
            value.shape = ir.Shape(value.const_value.shape.numpy())
