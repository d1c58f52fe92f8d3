"""Bring a model of any opset from 7 on to opset 21 and IR version 10.

Opsets 18 to 20 go through onnxscript's converter. It only relabels below 18, so older models, and newer ones (down),
go through onnx's own.
"""

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes import common
from onnxscript.version_converter import ConvertVersionPass

from qpipe.errors import ModelError
from qpipe.ir.quiet import quiet

OPSET = 21
IR_VERSION = 10
OLDEST_OPSET = 7
OLDEST_IR_VERSION = 3
# onnxscript's converter has real adapters from here on.
_OLDEST_ONNXSCRIPT_OPSET = 18


def upgrade(model: ir.Model, source: str) -> ir.Model:
    """The model at opset 21 and IR version 10, in place or as a new one. `source` names it in messages.

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
    opset = model.opset_imports.get("")
    if opset is None or opset < OLDEST_OPSET:
        raise ModelError(f"{source}: opset is {opset}, expected {OLDEST_OPSET} or newer")
    # Initializers beside the inputs need IR version 4.
    model.ir_version = max(model.ir_version, 4)
    if opset != OPSET:
        model = _convert(model, opset, source)
    model.ir_version = IR_VERSION
    return model


def _convert(model: ir.Model, opset: int, source: str) -> ir.Model:
    # Neither converter looks into functions. At opset 21 they stay: training's quantizers are functions.
    common.InlinePass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    try:
        if _OLDEST_ONNXSCRIPT_OPSET <= opset < OPSET:
            with quiet("onnx_ir", "onnxscript"):
                ConvertVersionPass(target_version=OPSET)(model)
            return model
        proto = ir.to_proto(model)
        # The converter's adapters ask for shapes (Softmax's meaning changed with opset 13).
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        return ir.from_proto(version_converter.convert_version(proto, OPSET))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{source}: opset {opset} can't be converted to {OPSET}: {reason}; export the model with opset {OPSET}"
        ) from error
