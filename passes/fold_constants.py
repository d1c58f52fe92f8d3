"""Infer shapes and compute whatever depends on constants alone: shape arithmetic, reshaped weights, padding lists.

Three things are never folded. QuantizeLinear and DequantizeLinear keep a Q/DQ pair what it is. The Cast of a packed
constant to int8 is how weights of 4 and 2 bits are stored; folding it would double the file. BatchNormalization is not
constant, and none of onnxscript's fusions runs here, so it stays a node.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.ir.files.quiet import quiet

_QUANTIZATION_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_PACKED = frozenset({ir.DataType.INT2, ir.DataType.UINT2, ir.DataType.INT4, ir.DataType.UINT4})
# Folding one constant can make the next one's shape known; in practice the second round finds nothing.
_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class FoldConstants(ir.passes.InPlacePass):
    """Constant expressions become initializers, where the result has at most `output_size_limit` elements more."""

    name: ClassVar[str] = "fold-constants"
    output_size_limit: int = 2**22

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer and fold until nothing changes."""
        modified = False
        for _ in range(_ROUNDS):
            # Where inference fails, shapes stay unknown; whoever needs one says so with the node's name.
            with quiet("onnx_ir", "onnxscript"):
                changed = self._infer_and_fold(model)
            modified |= changed
            if not changed:
                break
        _tidy(model)
        return ir.passes.PassResult(model, modified)

    def _infer_and_fold(self, model: ir.Model) -> bool:
        from onnxscript.optimizer import fold_constants_ir

        inferred = common.ShapeInferencePass(strict_mode=False)(model)
        folded = fold_constants_ir(
            model,
            # A weight that is reshaped or transposed in the graph may have any size.
            input_size_limit=2**62,
            output_size_limit=self.output_size_limit,
            should_fold=_should_fold,
        )
        return bool(inferred.modified or folded.modified)


def _should_fold(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type in _QUANTIZATION_OPS:
        return False
    return not any(value is not None and value.dtype in _PACKED for value in node.inputs)


def _tidy(model: ir.Model) -> None:
    """Give folded values the shape of their tensor, and drop the note that onnxscript leaves on them."""
    from onnxscript.optimizer import FOLDED_FROM_KEY

    for value in ir.convenience.create_value_mapping(model.graph).values():
        value.metadata_props.pop(FOLDED_FROM_KEY, None)
        if value.const_value is not None and value.is_initializer():
            value.shape = ir.Shape(value.const_value.shape.numpy())
