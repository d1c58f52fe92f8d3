"""Functions of TensorFlow that ONNX does not have: tf2onnx leaves them in a file that no runtime opens.

Erfc(x)   =  1 - Erf(x)         where Keras' Gelu is
Expm1(x)  =  Exp(x) - 1         where its Celu is
"""

from typing import Final

import numpy as np
import onnx_ir as ir

from qpipe.nodes import describe, initializer

_WRITTEN: Final = {"Erfc": "Erf", "Expm1": "Exp"}


def write_functions(model: ir.Model) -> list[str]:
    """Write each as ONNX's function and a Sub; what messages call them."""
    found = [node for node in model.graph if node.op_type in _WRITTEN and node.domain == "" and len(node.inputs) == 1]
    for node in found:
        result, op_type = node.outputs[0], _WRITTEN[node.op_type]
        function = ir.node(op_type, node.inputs, name=f"{node.name or result.name}_{op_type.lower()}")
        value = function.outputs[0]
        value.name = f"{result.name}_{op_type.lower()}"
        one = initializer(model.graph, f"{result.name}_one", np.array(1, np.float32))
        sub = ir.node("Sub", [one, value] if node.op_type == "Erfc" else [value, one], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [function, sub], [result], sub.outputs)
    return [describe(node) for node in found]
