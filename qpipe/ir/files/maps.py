"""Outputs that are a map for each sample, class to score: scikit-learn's exporter ends so, in a ZipMap."""

import onnx

from qpipe.ir.files.upgrade import OPSET
from qpipe.nodes import MACHINE_LEARNING


def without_maps(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model with the tensors `[N, classes]` in the place of maps that are outputs, and the names of these.

    onnx_ir has no type for a map, so it is done before. The argument itself stays as it was.
    """
    places = [index for index, node in enumerate(proto.graph.node) if _is_zip(node)]
    given = {name for index in places for name in proto.graph.node[index].output}
    names = [value.name for value in proto.graph.output if value.name in given]
    if not names:
        return proto, []
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for index in places:
        node = changed.graph.node[index]
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
    for value in changed.graph.output:
        if value.name in names:
            value.type.Clear()
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            value.type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension()] * 2)
    if all(each.domain not in ("", "ai.onnx") for each in changed.opset_import):
        changed.opset_import.add(domain="", version=OPSET)
    return changed, names


def _is_zip(node: onnx.NodeProto) -> bool:
    return node.domain == MACHINE_LEARNING and node.op_type == "ZipMap"
