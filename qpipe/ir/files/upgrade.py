"""Bring a model of any opset from 7 on to opset 21 and IR version 10.

Opsets 18 to 20 go through onnxscript's converter. It only relabels below 18, so older models, and newer ones (down),
go through onnx's own. Operators that came later (Attention, RMSNormalization, RotaryEmbedding, Swish) are written as
ONNX defines them, in older ones. A model with tensors of 2 bits is of opset 25 and IR version 13, the first that have
the type.
"""

import onnx
import onnx_ir as ir
from onnx import inliner, version_converter
from onnx_ir.passes import common

from qpipe.errors import ModelError, one_line
from qpipe.ir.files.infer import follows_lists
from qpipe.ir.files.quiet import quiet
from qpipe.nodes import MICROSOFT

OPSET = 21
TWO_BIT_OPSET = 25
IR_VERSIONS = {OPSET: 10, TWO_BIT_OPSET: 13}
TWO_BIT_TYPES = frozenset({ir.DataType.INT2, ir.DataType.UINT2})
OLDEST_OPSET = 7
OLDEST_IR_VERSION = 3
# onnxscript's converter has real adapters from here on.
_OLDEST_ONNXSCRIPT_OPSET = 18


def upgrade(model: ir.Model, source: str) -> ir.Model:
    """The model at opset 21 (25 with tensors of 2 bits), in place or as a new one. `source` names it in messages.

    Initializers that are also graph inputs (IR version 3 demands it) are taken out of the inputs first: nothing that
    can be fed from outside is a constant to a converter. Raises ModelError where the opset is too old or can't be
    converted.
    """
    if (model.ir_version or 0) < OLDEST_IR_VERSION:
        raise ModelError(f"{source}: IR version is {model.ir_version}, expected {OLDEST_IR_VERSION} or newer")
    if "ai.onnx" in model.opset_imports:
        # The standard domain's long name; onnx_ir shortens it on the nodes only.
        model.opset_imports[""] = model.opset_imports.pop("ai.onnx")
    common.RemoveInitializersFromInputsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    if not model.functions and all(node.domain != "" for node in model.graph.all_nodes()):
        # Of other domains alone: any opset is theirs.
        model.opset_imports[""] = needed_opset(model)
    opset = model.opset_imports.get("")
    if opset is None or opset < OLDEST_OPSET:
        raise ModelError(f"{source}: opset is {opset}, expected {OLDEST_OPSET} or newer")
    # Initializers beside the inputs need IR version 4.
    model.ir_version = max(model.ir_version, 4)
    target = needed_opset(model)
    if opset != target:
        model = _convert(model, opset, target, source)
    model.ir_version = IR_VERSIONS[target]
    _standardize_quantizers(model)
    return model


def _standardize_quantizers(model: ir.Model) -> None:
    """Let onnxruntime's own quantizers of 16 bits and less, from before ONNX had such types, be ONNX's."""
    found = [n for n in model.graph if n.domain == MICROSOFT and n.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    for node in found:
        node.domain = ""
    if found:
        common.RemoveUnusedOpsetsPass()(model)


def needed_opset(model: ir.Model) -> int:
    """25 where an initializer has 2 bits, else 21."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return TWO_BIT_OPSET if any(value.dtype in TWO_BIT_TYPES for value in values) else OPSET


def label_opset(model: ir.Model) -> None:
    """Let a model of opset 21 say the opset and IR version that its tensors need.

    A label is enough: from 21 to 25 operators gained types only, and onnx's own converter changes no node.
    """
    opset = needed_opset(model)
    model.opset_imports[""], model.ir_version = opset, IR_VERSIONS[opset]


def _convert(model: ir.Model, opset: int, target: int, source: str) -> ir.Model:
    from onnxscript.version_converter import ConvertVersionPass

    try:
        # Neither converter looks into functions. At opset 21 they stay: training's quantizers are functions.
        common.InlinePass()(model)
        common.RemoveUnusedOpsetsPass()(model)
        if _OLDEST_ONNXSCRIPT_OPSET <= opset < target == OPSET:
            with quiet("onnx_ir", "onnxscript"):
                ConvertVersionPass(target_version=target)(model)
            return model
        proto = _in_older_operators(ir.to_proto(model), opset, target)
        # The converter's adapters ask for shapes (Softmax's meaning changed with opset 13).
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=follows_lists(model))
        return ir.from_proto(version_converter.convert_version(proto, target))
    except Exception as error:
        raise ModelError(
            f"{source}: opset {opset} can't be converted to {target}: {one_line(error)}; export the model with opset "
            f"{target}"
        ) from error


def _in_older_operators(proto: onnx.ModelProto, opset: int, target: int) -> onnx.ModelProto:
    """The model with the bodies of operators that came after the target, where ONNX defines them by functions."""
    if opset <= target:
        return proto
    model, newer = ir.from_proto(proto), set[str]()
    for node in model.graph.all_nodes():
        if node.domain == "" and _came_after(node.op_type, target):
            newer.add(node.op_type)
            for name, attribute in onnx.defs.get_schema(node.op_type, opset, "").attributes.items():
                # A body reads attributes by name, and has no defaults.
                if name not in node.attributes and attribute.default_value.name:
                    node.attributes.add(ir.serde.deserialize_attribute(attribute.default_value))
    if not newer:
        return proto
    # Which body an operator has hangs on the ranks of what it reads.
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    return inliner.inline_selected_functions(
        proto, [("", name) for name in sorted(newer)], inline_schema_functions=True
    )


def _came_after(op_type: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return True
    return False
