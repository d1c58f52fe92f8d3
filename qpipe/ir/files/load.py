"""Read a float or quantized ONNX model from a file, checked, whole in memory, at opset 21 and IR version 10."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes import common

from qpipe.errors import ModelError, one_line
from qpipe.ir.files.quiet import quiet
from qpipe.ir.files.upgrade import upgrade
from qpipe.nodes import constant_array, describe

# An infinite number in one of these is a bound, not a weight.
_BOUND_OPS = frozenset({"Clip", "Max", "Min", "Pad", "Where"})


def load_model(model: str | os.PathLike[str] | onnx.ModelProto | ir.Model) -> ir.Model:
    """The model at opset 21, IR version 10, in memory with its external data; the argument itself stays as it was.

    Initializers are no graph inputs any more, and unused opset imports are gone. The first dimension of an input may
    be dynamic, the others must be fixed. Raises ModelError, in one line, for a file that is missing, truncated, not
    ONNX or empty; external data that are missing or outside the model's folder; NaN or infinite weights; unknown input
    shapes; and an opset that can't be converted.
    """
    if isinstance(model, ir.Model):
        source = f"model '{model.graph.name or 'without a name'}'"
        loaded = model.clone()
    elif isinstance(model, onnx.ModelProto):
        source = f"model '{model.graph.name or 'without a name'}'"
        loaded = _from_proto(model, source)
    else:
        source = os.fspath(model)
        loaded = _from_proto(_parse(Path(model)), source)
        # An absolute folder, because onnx_ir doesn't check external data against an empty one.
        ir.external_data.set_base_dir(loaded.graph, Path(model).absolute().parent)
    _load_external_data(loaded, source)
    _check_inputs(loaded, source)
    _check_graph(loaded, source)
    _check_weights(loaded, source)
    return upgrade(loaded, source)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {one_line(error)}") from error
    if not content:
        raise ModelError(f"{path}: the file is empty")
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model, or truncated ({len(content)} bytes)") from None
    return proto


def _from_proto(proto: onnx.ModelProto, source: str) -> ir.Model:
    # Bytes of another kind can parse as a message of unknown fields only.
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{source}: not an ONNX model")
    if not proto.graph.node:
        raise ModelError(f"{source}: the graph has no nodes")
    try:
        return ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"{source}: invalid ONNX model: {one_line(error)}") from error


def _load_external_data(model: ir.Model, source: str) -> None:
    """Read every external tensor into memory, so that the file may move or be overwritten."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _in_memory(value.const_value, source)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                    tensor = _in_memory(attribute.value, source)
                    node.attributes[attribute.name] = ir.AttrTensor(attribute.name, tensor)


def _in_memory(tensor: ir.ExternalTensor, source: str) -> ir.TensorProtocol:
    location = os.fspath(tensor.location)
    name = f"{source}: external data of '{tensor.name}'"
    if not tensor.base_dir:
        raise ModelError(f"{name} lie in '{location}', beside a file that is unknown; pass the model's path")
    folder = Path(tensor.base_dir)
    if not (folder / location).resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{name} point to '{location}', expected a file inside the model's folder")
    if not (folder / location).is_file():
        raise ModelError(f"{name}: no such file '{location}' in the model's folder")
    end = (tensor.offset or 0) + tensor.nbytes
    size = (folder / location).stat().st_size
    if size < end or tensor.length not in (None, tensor.nbytes):
        raise ModelError(f"{name}: '{location}' has {size} bytes, expected {tensor.nbytes} up to byte {end}")
    try:
        return ir.external_data.convert_tensors_from_external([tensor])[0]
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: {one_line(error)}") from error


def _check_graph(model: ir.Model, source: str) -> None:
    if not len(model.graph):
        raise ModelError(f"{source}: the graph has no nodes")
    if not model.graph.outputs:
        raise ModelError(f"{source}: the graph has no outputs")
    # The checker wants a name; runtimes don't.
    model.graph.name = model.graph.name or "main"
    if any(value.shape is None for value in model.graph.outputs):
        # As for the name.
        with quiet("onnx_ir"):
            common.ShapeInferencePass(strict_mode=False)(model)
    try:
        common.CheckerPass()(model)
    except Exception as error:
        raise ModelError(f"{source}: invalid ONNX model: {one_line(error)}") from error


def _check_weights(model: ir.Model, source: str) -> None:
    """Refuse NaN and infinite weights, and tensors whose bytes don't fit their shape."""
    for owner, tensor, is_bound in _tensors(model):
        try:
            array = tensor.numpy()
        except Exception as error:
            raise ModelError(f"{source}: {owner} can't be read: {one_line(error)}") from error
        if not tensor.dtype.is_floating_point():
            continue
        if np.isnan(array).any():
            raise ModelError(f"{source}: {owner} contains NaN, expected finite weights")
        if not (is_bound and array.size == 1) and np.isinf(array).any():
            raise ModelError(f"{source}: {owner} contains infinite values, expected finite weights")


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol, bool]]:
    """Every initializer and Constant: what to call it, the tensor, and whether only bounds are read from it."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield f"initializer '{value.name}'", value.const_value, _is_bound(value)
        for node in graph:
            if node.op_type == "Constant" and node.domain == "" and constant_array(node.outputs[0]) is not None:
                tensor = ir.convenience.get_const_tensor(node.outputs[0])
                assert tensor is not None
                yield describe(node), tensor, _is_bound(node.outputs[0])


def _is_bound(value: ir.Value) -> bool:
    return all(node.op_type in _BOUND_OPS for node in value.consumers())


def _check_inputs(model: ir.Model, source: str) -> None:
    """Every input is a tensor whose rank and dimensions are known, but for the first, the batch."""
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        if not isinstance(value.type, ir.TensorType):
            raise ModelError(f"{source}: input '{value.name}' is of type {value.type}, expected a tensor")
        if value.shape is None:
            raise ModelError(f"{source}: input '{value.name}' has no shape; export the model with its input shape")
        for index, dim in enumerate(value.shape):
            if (index > 0 and not isinstance(dim, int)) or (isinstance(dim, int) and dim < 1):
                found = dim if isinstance(dim, int) else f"'{dim.value}'" if dim.value else "unknown"
                raise ModelError(
                    f"{source}: input '{value.name}': dimension {index} is {found}, expected a fixed number (only the "
                    "first one, the batch, may be dynamic); export the model with a fixed input size"
                )
