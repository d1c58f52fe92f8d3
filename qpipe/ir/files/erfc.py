"""TensorFlow's Erfc, which ONNX does not have: tf2onnx leaves it where Keras' Gelu is, in a file that no runtime opens.

erfc(x) = 1 - erf(x)
"""

import numpy as np
import onnx_ir as ir

from qpipe.nodes import describe, initializer


def write_erfc(model: ir.Model) -> list[str]:
    """Write each as ONNX's Erf of float32 and a Sub; what messages call them."""
    found = [node for node in model.graph if node.op_type == "Erfc" and node.domain == "" and len(node.inputs) == 1]
    for node in found:
        result = node.outputs[0]
        erf = ir.node("Erf", node.inputs, name=f"{node.name or result.name}_erf")
        erf.outputs[0].name = f"{result.name}_erf"
        one = initializer(model.graph, f"{result.name}_one", np.array(1, np.float32))
        sub = ir.node("Sub", [one, erf.outputs[0]], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [erf, sub], [result], sub.outputs)
    return [describe(node) for node in found]
