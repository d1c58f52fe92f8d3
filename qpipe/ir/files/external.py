"""The files of weights that a model names."""

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir


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
