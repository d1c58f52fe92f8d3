"""How large a model is on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir


def file_size(path: str | os.PathLike[str]) -> int:
    """Bytes of an .onnx file, with the files that hold its external data."""
    model = Path(path)
    tensors = _tensors(ir.load(model))
    outside = {model.parent / tensor.location for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return sum(file.stat().st_size for file in (model, *outside))


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol | None]:
    """Of initializers, Constants and other attributes."""
    for graph in model.graphs():
        yield from (value.const_value for value in graph.initializers.values())
        for node in graph:
            yield from (a.as_tensor() for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR)
