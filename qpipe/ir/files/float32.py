"""Write a network of float16, bfloat16 or float64 as one of float32, in which everything later computes.

Every float16 and bfloat16 number is one of float32 too; of float64 a number beyond float32's range is refused, and
others are rounded. The Casts that exporters put around such a network (keep_io_types) do nothing then, and folding
constants removes them.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.files.checks import is_bound
from qpipe.nodes import DOMAIN

_OTHER_FLOATS: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
# Attributes that hold a type: of Cast; of EyeLike, random numbers, SequenceEmpty; of LayerNormalization; of Q and DQ.
_TYPE_ATTRIBUTES: Final = ("to", "dtype", "stash_type", "output_dtype", "precision", "output_datatype")
_LARGEST: Final = np.finfo(np.float32).max


def to_float32(model: ir.Model, source: str) -> str:
    """Convert in place; a note about what was found, empty where the model has no such numbers.

    Raises ModelError where a number of float64 is beyond float32's range.
    """
    found: Counter[str] = Counter()
    graphs: list[ir.Graph | ir.Function] = [*model.graphs()]
    for function in model.functions.values():
        if function.domain == DOMAIN:  # training's quantizers compute in float64 where they must
            continue
        graphs += [function, *function.subgraphs()]
    for graph in graphs:
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None and value.const_value.dtype in _OTHER_FLOATS:
                    found[value.const_value.dtype.name.lower()] += 1
                    owner = f"{source}: initializer '{value.name}'"
                    value.const_value = _converted(value.const_value, owner, is_bound=is_bound(value))
        _retype([*graph.inputs, *(graph.initializers.values() if isinstance(graph, ir.Graph) else ())], found)
        for node in graph:
            _retype(node.outputs, found)
            _convert_attributes(node, source, found)
    if not found:
        return ""
    return f"{source}: its {' and '.join(sorted(kind for kind in found))} numbers are read as float32"


def _converted(tensor: ir.TensorProtocol, owner: str, *, is_bound: bool) -> ir.TensorProtocol:
    array = tensor.numpy().astype(np.float64)
    beyond = np.isfinite(array) & (np.abs(array) > _LARGEST)
    if beyond.any() and not is_bound:
        raise ModelError(f"{owner} holds {array[beyond][0]:g}, expected numbers of float32 (up to {_LARGEST:.3g})")
    # The largest float64 stands for "no bound" in a Clip or a mask.
    array = np.where(beyond, np.copysign(_LARGEST, array), array)
    return ir.tensor(array.astype(np.float32).reshape(tensor.shape.numpy()), name=tensor.name)


def _retype(values: Iterable[ir.Value], found: Counter[str]) -> None:
    for value in values:
        kind = value.type
        while isinstance(kind, ir.SequenceType | ir.OptionalType):
            kind = kind.elem_type
        if kind is not None and kind.dtype in _OTHER_FLOATS:
            found[kind.dtype.name.lower()] += 1
            kind.dtype = ir.DataType.FLOAT


def _convert_attributes(node: ir.Node, source: str, found: Counter[str]) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _OTHER_FLOATS:
            found[attribute.as_tensor().dtype.name.lower()] += 1
            owner = f"{source}: {node.op_type} '{node.name or node.outputs[0].name}'"
            tensor = _converted(attribute.as_tensor(), owner, is_bound=all(map(is_bound, node.outputs)))
            node.attributes[name] = ir.AttrTensor(name, tensor)
        elif name in _TYPE_ATTRIBUTES and attribute.value in _OTHER_FLOATS:
            found[ir.DataType(attribute.as_int()).name.lower()] += 1
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
