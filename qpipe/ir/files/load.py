"""Read a float or quantized ONNX model from a file, checked, whole in memory, at opset 21 and IR version 10."""

import os
import stat
import warnings
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from qpipe.errors import ModelError, one_line
from qpipe.ir.files.checks import (
    check_functions,
    check_graph,
    check_inputs,
    check_proto,
    check_sizes,
    check_weights,
)
from qpipe.ir.files.consistent import check_shapes
from qpipe.ir.files.external import load_external_data
from qpipe.ir.files.float32 import to_float32
from qpipe.ir.files.maps import without_maps
from qpipe.ir.files.outputs import kind_of_file
from qpipe.ir.files.quiet import quiet
from qpipe.ir.files.sizes import restore_sizes
from qpipe.ir.files.tensorflow import write_functions
from qpipe.ir.files.upgrade import upgrade
from qpipe.nodes import initializer, name_in_memory

_CHANGED: Final = "qpipe.changed_on_loading"


class LoadingNote(UserWarning):
    """What a loaded model does not have as its file has it."""


def load_model(model: str | os.PathLike[str] | onnx.ModelProto | ir.Model) -> ir.Model:
    """The model at opset 21, IR version 10, in memory with its external data; the argument itself stays as it was.

    Initializers are no graph inputs any more, and unused opset imports are gone. Sizes of the inputs may be open; a
    file of ours that is has those that it was computed at. Raises ModelError, in one line, for a file that is missing,
    truncated, not ONNX or empty; external data that are missing or outside the model's folder; NaN or infinite weights;
    empty inputs; nodes whose inputs don't fit; tensors and functions of unbearable size; and an opset that can't be
    converted. A warning says where a network of other floats became one of float32, which inputs nothing reads, and
    which outputs are inputs, stand twice, or are maps, and that an operator of TensorFlow was written in ONNX's.
    """
    unzipped = list[str]()
    if isinstance(model, ir.Model):
        source = name_in_memory(model)
        loaded = model.clone()
    elif isinstance(model, onnx.ModelProto):
        source = name_in_memory(model)
        proto, unzipped = without_maps(model)
        loaded = _from_proto(proto, source)
    else:
        source = os.fspath(model)
        proto, unzipped = without_maps(_parse(Path(model)))
        loaded = _from_proto(proto, source)
        # An absolute folder, because onnx_ir doesn't check external data against an empty one.
        ir.external_data.set_base_dir(loaded.graph, Path(model).absolute().parent)
    load_external_data(loaded, source)
    _open_negative_sizes(loaded)
    check_functions(loaded, source)
    _sort(loaded, source)
    written = write_functions(loaded)
    passed_on = _drop_repeated_outputs(loaded)
    dropped = _drop_unused_inputs(loaded)
    check_inputs(loaded, source)
    check_shapes(loaded, source)
    check_graph(loaded, source)
    _separate_outputs(loaded.graph)
    check_sizes(ir.convenience.create_value_mapping(loaded.graph).values(), f"{source}: ")
    check_weights(loaded, source)
    notes = [f"{source}: nothing reads the input '{name}': it is left out" for name in dropped]
    notes += [f"{source}: the output '{name}' {why}: it is left out" for name, why in passed_on.items()]
    notes += [f"{source}: the output '{name}' is a map for each sample: here it is their values" for name in unzipped]
    if written:
        notes.append(f"{source}: {written[0]} is no operator of ONNX: it is written in those, {len(written)} in all")
    notes += filter(None, [to_float32(loaded, source)])
    loaded = upgrade(loaded, source)
    restore_sizes(loaded)
    if notes:
        loaded.meta[_CHANGED] = True
    for note in notes:
        warnings.warn(note, LoadingNote, stacklevel=2)
    return loaded


def is_as_written(model: ir.Model) -> bool:
    """Whether a loaded model's inputs and numbers are those of its file."""
    return _CHANGED not in model.meta


def _parse(path: Path) -> onnx.ModelProto:
    """The file's content. What is no regular file is not even opened: a pipe or a device may never end."""
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode):
            raise ModelError(f"{path}: is {kind_of_file(mode)}, expected an .onnx file")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise ModelError(f"{path}: can't be read: {one_line(error)}") from error
    if not content:
        raise ModelError(f"{path}: the file is empty")
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model, or truncated ({len(content)} bytes)") from None
    return proto


def _from_proto(proto: onnx.ModelProto, source: str) -> ir.Model:
    check_proto(proto, source)
    try:
        with quiet("onnx_ir"):
            model = ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"{source}: invalid ONNX model: {one_line(error)}") from error
    # What is said of an output that is an input need not be all that is said of the input.
    for value, info in zip(model.graph.inputs, proto.graph.input, strict=True):
        if value.is_graph_output():
            value.shape = ir.serde.deserialize_type_proto_for_shape(info.type)
    return model


def _open_negative_sizes(model: ir.Model) -> None:
    """Leave open what Paddle's older exporters, and runtimes, call -1."""
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        if any(isinstance(dim, int) and dim < 0 for dim in value.shape or ()):
            value.shape = ir.Shape([None if isinstance(dim, int) and dim < 0 else dim for dim in value.shape or ()])


def _sort(model: ir.Model, source: str) -> None:
    """Put each node behind those that it reads, as ONNX asks and not every writer does; runtimes don't mind."""
    place = {node: index for index, node in enumerate(model.graph)}
    reads = ((node, value.producer()) for node in model.graph for value in node.inputs if value is not None)
    if all(place.get(producer, -1) < place[node] for node, producer in reads if producer is not None):
        return
    try:
        model.graph.sort()
    except ValueError:
        raise ModelError(f"{source}: nodes read each other in a circle, expected none") from None


def _drop_unused_inputs(model: ir.Model) -> list[str]:
    """Take out what nothing reads, where another input is left; the names. Exporters leave such inputs behind."""
    inputs = model.graph.inputs
    fed = [value for value in inputs if not value.is_initializer()]
    unused = [value for value in fed if not value.uses() and not value.is_graph_output()]
    if len(unused) == len(fed):
        return []
    for value in unused:
        inputs.remove(value)
    return [str(value.name) for value in unused]


def _drop_repeated_outputs(model: ir.Model) -> dict[str, str]:
    """Take out outputs that are inputs, or that stand there already, where another output is left; why, by name."""
    outputs, found, kept = model.graph.outputs, dict[str, str](), list[ir.Value]()
    for value in outputs:
        if value in kept:
            found[str(value.name)] = "stands twice among the outputs"
        elif value.is_graph_input() and not value.is_initializer():
            found[str(value.name)] = "is an input"
        else:
            kept.append(value)
    if not kept:
        return {}
    if found:
        outputs[:] = kept
    return found


def _separate_outputs(graph: ir.Graph) -> None:
    """Let an output that is an initializer be one by itself: what nodes read of it may become integers."""
    for value in graph.outputs:
        tensor = value.const_value
        if value.is_initializer() and tensor is not None and value.uses():
            own = initializer(graph, f"{value.name}_read", tensor.numpy())
            for node, index in list(value.uses()):
                node.replace_input_with(index, own)
