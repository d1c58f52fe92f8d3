"""The files of weights that a model names: found, and read into memory from inside of the model's folder alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from qpipe.errors import ModelError, one_line, printable


def external_files(path: Path) -> list[Path]:
    """Those of the tensors of an .onnx file, in order; none where it can't be read, which who opens it will say."""
    try:
        model = ir.load(path)
        outside = {str(tensor.location) for tensor in _tensors(model) if isinstance(tensor, ir.ExternalTensor)}
    except Exception:
        return []
    return [path.parent / name for name in sorted(outside)]


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol | None]:
    """Of initializers, Constants and other attributes."""
    for graph in model.graphs():
        yield from (value.const_value for value in graph.initializers.values())
        for node in graph:
            yield from (a.as_tensor() for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR)


def load_external_data(model: ir.Model, source: str) -> None:
    """Read every external tensor into memory, so that the file may move or be overwritten; ModelError names it."""
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
    shown, name = printable(location), f"{source}: external data of '{tensor.name}'"
    if not tensor.base_dir:
        raise ModelError(f"{name} lie in '{shown}', beside a file that is unknown; pass the model's path")
    folder = Path(tensor.base_dir)
    offset = tensor.offset or 0
    try:
        if not (folder / location).resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{name} point to '{shown}', expected a file inside the model's folder")
        if not (folder / location).is_file():
            raise ModelError(f"{name}: no such file '{shown}' in the model's folder")
        end, size = offset + tensor.nbytes, (folder / location).stat().st_size
        # Without a length they go on to the end of the file.
        length = size - offset if tensor.length is None else tensor.length
        if size < end or length != tensor.nbytes:
            raise ModelError(f"{name}: '{shown}' has {size} bytes, expected {tensor.nbytes} up to byte {end}")
        return ir.external_data.convert_tensors_from_external([tensor])[0]
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{name}: '{shown}' can't be read: {one_line(error)}") from error
