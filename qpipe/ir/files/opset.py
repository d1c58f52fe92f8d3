"""The opset that a model was written with; `load_model` brings it to another one."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from qpipe.ir.files.torch_import import ModelLike
from qpipe.ir.files.upgrade import OPSET


def original_opset(model: ModelLike) -> int:
    """Of a file or a model in memory that can be loaded; a PyTorch model is exported with `OPSET`."""
    imports: dict[str, int] = {}
    if isinstance(model, ir.Model):
        imports = dict(model.opset_imports)
    elif isinstance(model, onnx.ModelProto):
        imports = {entry.domain: entry.version for entry in model.opset_import}
    elif isinstance(model, str | os.PathLike) and Path(model).is_file():
        proto = onnx.load_model(model, load_external_data=False)
        imports = {entry.domain: entry.version for entry in proto.opset_import}
    return imports.get("", imports.get("ai.onnx", OPSET))
