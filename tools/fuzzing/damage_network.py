"""Float networks that are damaged in any field, or still networks: other attributes, shapes, types and nodes."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from fuzzing.case import Case
from fuzzing.chains import from_float
from fuzzing.networks import SHAPES
from fuzzing.protobuf import damage
from fuzzing.values import damaged_bytes, floating, integer, text

ATTRIBUTES: Final[dict[str, tuple[Any, ...]]] = {
    "pads": ([0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [2, 1, 0, 3], [-1, 0, 0, 0], [9, 9, 9, 9], [1, 1], [2]),
    "strides": ([1, 1], [2, 2], [3, 1], [1, 2], [9, 9], [0, 1], [2]),
    "kernel_shape": ([1, 1], [2, 2], [3, 3], [2, 3], [8, 8], [0, 0], [3]),
    "dilations": ([1, 1], [2, 2], [1, 3], [0, 1]),
    "group": (1, 2, 4, 8, 0, -1),
    "auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "OTHER"),
    "ceil_mode": (0, 1),
    "count_include_pad": (0, 1),
    "storage_order": (0, 1),
    "axis": (0, 1, -1, 2, 9),
    "keepdims": (0, 1),
    "transA": (0, 1),
    "transB": (0, 1),
    "alpha": (1.0, 0.5, 2.0, -1.0, 0.0, 0.01),
    "beta": (1.0, 0.5, 0.0, -2.0),
    "epsilon": (1e-5, 0.0, 1e-3, -1.0, 10.0),
    "momentum": (0.9, 0.0),
    "training_mode": (0, 1),
    "perm": ([0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2], [1, 0, 2, 3], [0, 1]),
    "mode": ("constant", "reflect", "edge", "wrap"),
    "to": (1, 6, 7, 9, 10, 11),
    "allowzero": (0, 1),
    "noop_with_empty_axes": (0, 1),
    "spatial": (0, 1),
}
"""By name what an attribute may be set to, most of it legal somewhere."""

INSERTED: Final = (
    "o = Identity(i)", "o = Relu(i)", "o = Neg(i)", "o = Abs(i)", "o = Sigmoid(i)", "o = Tanh(i)", "o = HardSwish(i)",
    "o = HardSigmoid<alpha=0.2>(i)", "o = LeakyRelu<alpha=0.1>(i)", "o = Elu(i)", "o = Softmax<axis=1>(i)",
    "o = Flatten(i)", "o = Flatten<axis=0>(i)", "o = Dropout(i)", "o = Erf(i)", "o = Exp(i)", "o = Sqrt(i)",
    "o = Add(i, i)", "o = Mul(i, i)", "o = Sub(i, i)", "o = Concat<axis=1>(i, i)", "o = Concat<axis=0>(i, i)",
    "z = Constant<value_float=0.0>() h = Constant<value_float=1.0>() o = Clip(i, z, h)",
    "z = Constant<value_floats=[0.0]>() h = Constant<value_floats=[6.0]>() o = Clip(i, z, h)",
    "z = Constant<value_float=1.0>() h = Constant<value_float=0.5>() o = Clip(i, z, h)",
    "z = Constant<value_float=-1.0>() o = Clip(i, z)",
    "z = Constant<value_float=2.0>() o = Mul(i, z)", "z = Constant<value_float=-0.3>() o = Mul(z, i)",
    "z = Constant<value_float=0.5>() o = Add(i, z)", "z = Constant<value_float=0.0>() o = Div(i, z)",
    "z = Constant<value_float=0.0>() o = Max(i, z)", "z = Constant<value_float=3.0>() o = Min(i, z)",
    "z = Constant<value_float=3.0>() o = Pow(i, z)", "z = Constant<value_ints=[0, -1]>() o = Reshape(i, z)",
    "o = MaxPool<kernel_shape=[2,2]>(i)", "o = AveragePool<kernel_shape=[2,2]>(i)",
    "o = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, pads=[1,1,1,1]>(i)",
    "o = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(i)", "o = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(i)",
    "o = MaxPool<kernel_shape=[3]>(i)", "o = AveragePool<kernel_shape=[2]>(i)", "o = GlobalAveragePool(i)",
    "o = GlobalMaxPool(i)", "o = ReduceMean(i)", "o = Transpose(i)", "o = Transpose<perm=[0,1,3,2]>(i)",
    "o = ArgMax<axis=1>(i)", "o = Cast<to=6>(i)", "c = Cast<to=10>(i) o = Cast<to=1>(c)", "o = Shape(i)",
    "o = DepthToSpace<blocksize=2>(i)", "o = SpaceToDepth<blocksize=2>(i)", "o = InstanceNormalization(i, i, i)",
    "o = LRN<size=3>(i)", "o, p = Split<axis=1, num_outputs=2>(i)", "o = com.microsoft.Gelu(i)",
    "o = custom.Unknown(i)", "z = Constant<value_int=1>() o, p = TopK(i, z)", "s = Shape(i) o = Expand(i, s)",
    "o = Squeeze(i)",
    "z = Constant<value_ints=[2]>() o = Unsqueeze(i, z)", "z = Constant<value_ints=[0]>() o = Gather<axis=1>(i, z)",
    "z = Constant<value_ints=[0,0,1,1,0,0,1,1]>() o = Pad(i, z)",
    "z = Constant<value_ints=[1,1]>() a = Constant<value_ints=[2]>() o = Pad(i, z, , a)",
    "z = Constant<value_float=0.1>() q = Constant<value_int=0>() d = Cast<to=2>(q) "
    "a = QuantizeLinear(i, z, d) o = DequantizeLinear(a, z, d)",
)  # fmt: skip
"""Nodes that may be put behind any value."""

DTYPES: Final = (np.float16, np.float64, np.int8, np.int32, np.int64, np.uint8, np.bool_)


def damaged_field(rng: Random, seeds: Path, folder: Path) -> Case:
    """One to three fields of the message, whatever they are."""
    name, proto = _pick(rng, seeds)
    donors = [onnx.load(seeds / f"{other}.onnx") for other in rng.sample(sorted(SHAPES), 1)]
    done = [damage(rng, proto, donors) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    return _case(rng, seeds, folder, name, proto, "; ".join(done))


def damaged_file(rng: Random, seeds: Path, folder: Path) -> Case:
    """Bytes of the file."""
    name, proto = _pick(rng, seeds)
    content = proto.SerializeToString()
    for _ in range(rng.choice((1, 1, 2, 5))):
        content = damaged_bytes(rng, content)
    return _case(rng, seeds, folder, name, content, "bytes")


def other_network(rng: Random, seeds: Path, folder: Path) -> Case:
    """Still a message that means something: attributes, nodes, tensors, inputs and outputs that others have."""
    name, proto = _pick(rng, seeds)
    done = [rng.choice(CHANGES)(rng, proto) for _ in range(rng.choice((1, 1, 2, 3)))]
    return _case(rng, seeds, folder, name, proto, "; ".join(done))


def _pick(rng: Random, seeds: Path) -> tuple[str, onnx.ModelProto]:
    name = rng.choice(sorted(SHAPES))
    return name, onnx.load(seeds / f"{name}.onnx")


def _case(rng: Random, seeds: Path, folder: Path, name: str, model: onnx.ModelProto | bytes, what: str) -> Case:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "net.onnx").write_bytes(content)
    (folder / "data.npz").write_bytes((seeds / f"{name}.npz").read_bytes())
    bits = str(rng.choice((2, 4, 5, 8)))
    options = ("--weight-bits", bits, "--activation-bits", bits) if rng.random() < 0.3 else ()
    return Case(f"{name}: {what}", from_float(rng, "net.onnx", "data.npz", options))


def _attribute(rng: Random, proto: onnx.ModelProto) -> str:
    """One that the node's op has, set to what is legal somewhere."""
    node = rng.choice(proto.graph.node)
    try:
        known = [key for key in onnx.defs.get_schema(node.op_type, 21).attributes if key in ATTRIBUTES]
    except onnx.defs.SchemaError:
        known = []
    if not known:
        return _insert(rng, proto)
    key = rng.choice(sorted(known))
    value = rng.choice(ATTRIBUTES[key])
    kept = [attribute for attribute in node.attribute if attribute.name != key]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(key, value)])
    return f"{node.name}: {key} = {value}"


def _insert(rng: Random, proto: onnx.ModelProto) -> str:
    """Nodes between a value and one of those that read it."""
    readers = [(node, i) for node in proto.graph.node for i, name in enumerate(node.input) if name]
    reader, place = rng.choice(readers)
    line = rng.choice(INSERTED)
    made = parser.parse_graph(f"g (float[N] i) => (float[N] o) {{ {line} }}").node
    number = len(proto.graph.node)
    for node in made:
        node.name = f"new{number}_{node.output[0]}"
        node.input[:] = [reader.input[place] if name == "i" else name and f"new{number}{name}" for name in node.input]
        node.output[:] = [f"new{number}{name}" for name in node.output]
    at = list(proto.graph.node).index(reader)
    later = list(proto.graph.node)[at:]
    reader.input[place] = f"new{number}o"
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in [*made, *later]]
    del proto.graph.node[at:]
    proto.graph.node.extend(copies)
    return f"before {reader.name}: {line}"


def _tensor(rng: Random, proto: onnx.ModelProto) -> str:
    """A constant of another shape, type or size of values."""
    tensor = rng.choice(proto.graph.initializer)
    array = np.array(numpy_helper.to_array(tensor))
    what, array = _changed(rng, array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return f"{tensor.name}: {what}"


def _changed(rng: Random, array: np.ndarray) -> tuple[str, np.ndarray]:
    index = tuple(rng.randrange(size) for size in array.shape) if array.size else ()
    match rng.randrange(9):
        case 0:
            dtype = rng.choice(DTYPES)
            with np.errstate(all="ignore"):
                return f"as {dtype.__name__}", array.astype(dtype)
        case 1:
            return "transposed", np.ascontiguousarray(array.T)
        case 2:
            return "one axis more", array[None]
        case 3:
            return "flat", array.reshape(-1)
        case 4 if array.ndim:
            return "half of it", array[: len(array) // 2]
        case 5 if array.dtype == np.float32:
            value = floating(rng)
            return f"all {value}", np.full_like(array, value)
        case 6 if array.dtype == np.float32:
            factor = 2.0 ** rng.randint(-60, 60)
            with np.errstate(all="ignore"):
                return f"times {factor:g}", (array * np.float32(factor)).astype(np.float32)
        case 7 if array.dtype == np.float32 and array.ndim:
            factor = 10.0 ** rng.randint(-9, 9)
            array[index[0]] *= np.float32(factor)
            return f"row {index[0]} times {factor:g}", array
    if array.size:
        value = floating(rng) if array.dtype.kind == "f" else integer(rng)
        with np.errstate(all="ignore"):
            array[index] = np.asarray(value).astype(array.dtype)
        return f"{list(index)} = {value}", array
    return "empty", array


def _ends(rng: Random, proto: onnx.ModelProto) -> str:
    """The input's shape or type, or which values are outputs."""
    match rng.randrange(5):
        case 0:
            dims = proto.graph.input[0].type.tensor_type.shape.dim
            dim = rng.choice(dims)
            dim.dim_value = rng.choice((1, 2, 3, 4, 7, 8, 16, 0, -1, 100_000))
            return f"an input dimension is {dim.dim_value}"
        case 1:
            rng.choice(proto.graph.input[0].type.tensor_type.shape.dim).dim_param = rng.choice(("N", "H", "", "?"))
            return "an input dimension is open"
        case 2:
            proto.graph.input[0].type.tensor_type.elem_type = rng.choice((2, 3, 6, 7, 9, 10, 11))
            return "the input has another type"
        case 3:
            node = rng.choice(proto.graph.node)
            output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
            proto.graph.output.insert(rng.randrange(2), output)
            return f"{node.output[0]} is an output too"
    initializer = rng.choice(proto.graph.initializer)
    proto.graph.input.append(
        helper.make_tensor_value_info(initializer.name, initializer.data_type, list(initializer.dims))
    )
    return f"{initializer.name} is an input too"


def _names(rng: Random, proto: onnx.ModelProto) -> str:
    """A value has another name wherever it stands."""
    old = rng.choice(proto.graph.node).output[0]
    new = text(rng, [value.name for value in proto.graph.initializer])
    for node in proto.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for output in proto.graph.output:
        output.name = new if output.name == old else output.name
    return f"{old} is called {new!r:.40}"


def _opset(rng: Random, proto: onnx.ModelProto) -> str:
    proto.opset_import[0].version = rng.choice((7, 9, 11, 13, 15, 17, 18, 20, 22, 23, 24, 28, 1, 0, 10**6))
    proto.ir_version = rng.choice((3, 7, 8, 10, 11, 13, 99))
    return f"opset {proto.opset_import[0].version}, IR {proto.ir_version}"


CHANGES: Final[tuple[Callable[[Random, onnx.ModelProto], str], ...]] = (
    _attribute, _attribute, _attribute, _insert, _insert, _insert, _insert, _tensor, _tensor, _ends, _names, _opset,
)  # fmt: skip
