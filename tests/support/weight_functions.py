"""The ONNX functions that give codes of weights in trainable files: those of a model, and what one of them computes."""

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.nodes import DOMAIN
from qpipe.runtime.session import open_session
from support.networks import parse


def functions(model: ir.Model) -> list[str]:
    """Of our domain: those that are called, and those that are defined."""
    called = [node.op_type for node in model.graph if node.domain == DOMAIN]
    return [*called, *(identifier[1] for identifier in model.functions if identifier[0] == DOMAIN)]


def codes_by(name: str, function: onnx.FunctionProto, weight: np.ndarray, attributes: str = "") -> np.ndarray:
    """What onnxruntime computes by the function of this name. attributes: `<bits=2>`, in ONNX's text."""
    text = f"""(float{list(weight.shape)} w) => (int8{list(weight.shape)} codes) {{
        codes = {DOMAIN}.{name}{attributes}(w)
    }}"""
    model = parse(text, opsets=f'"": 21, "{DOMAIN}": 1')
    model.functions.append(function)
    onnx.checker.check_model(model)
    (codes,) = open_session(model, threads=1).run(None, {"w": weight})
    assert codes.dtype == np.int8
    return codes
