"""Write a model as an `.onnx` file."""

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from qpipe.errors import OutputError
from qpipe.ir.files.outputs import target_of
from qpipe.ir.files.write import atomic_path

# A protobuf message can't pass 2 GiB; the graph itself needs some of it, so the tensors get a little less.
PROTOBUF_LIMIT = 2**31 - 2**26


def save_model(model: ir.Model, path: str | os.PathLike[str], *, external_data: str | None = None) -> None:
    """Write the model as an ``.onnx`` file; equal models give equal bytes.

    external_data: name of a file beside `path` that gets the weights. A model over 2 GiB gets one unasked, named
    after the model with ``.data`` added. Raises OutputError; nothing half-written is left.
    """
    target = target_of(path)
    if external_data is None and _tensor_bytes(model) > PROTOBUF_LIMIT:
        external_data = f"{target.name}.data"
    if external_data is not None and (Path(external_data).name != external_data or external_data == target.name):
        raise OutputError(
            f"{os.fspath(path)}: external data go to '{external_data}', expected the plain name of another file"
        )
    with atomic_path(path) as temporary:
        if external_data is not None:
            ir.save(model, temporary, format="protobuf", external_data=external_data)
        else:
            # External tensors of a model that was opened lazily would be written as references to where they lie now.
            ir.external_data.load_to_model(model)
            temporary.write_bytes(_proto(model).SerializeToString(deterministic=True))


def _proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a message that says nothing twice: the type and shape of an initializer stand in its tensor."""
    proto = ir.to_proto(model)
    constants = {tensor.name for tensor in proto.graph.initializer}
    infos = [info for info in proto.graph.value_info if info.name not in constants or info.metadata_props]
    proto.graph.ClearField("value_info")
    proto.graph.value_info.extend(infos)
    return proto


def _tensor_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, those of subgraphs included."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)
