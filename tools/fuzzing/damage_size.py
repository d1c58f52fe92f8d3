"""Small files that ask for much: of memory when folded or run, of time when unfolded, of the stack."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import onnx
from onnx import FunctionProto, helper, parser

from fuzzing.case import Case
from fuzzing.chains import from_float

SIZES: Final = (10_000, 40_000, 100_000, 2**31 - 1, 2**40)


def oversized(rng: Random, seeds: Path, folder: Path) -> Case:
    """The network of the digits with one such part."""
    proto = onnx.load(seeds / "digits.onnx")
    change = rng.choice(CHANGES)
    what = change(rng, proto)
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    (folder / "data.npz").write_bytes((seeds / "digits.npz").read_bytes())
    return Case(f"{change.__name__.strip('_')}: {what}", from_float(rng, "net.onnx", "data.npz"))


def _behind(proto: onnx.ModelProto, nodes: str, prefix: str = "big") -> None:
    """Put nodes that read `i` and give `o` behind the first Relu, and more before them that read nothing."""
    made = parser.parse_graph(f"g (float[N] i) => (float[N] o) {{ {nodes} }}").node
    at = next(index for index, node in enumerate(proto.graph.node) if node.name == "relu1")
    source = proto.graph.node[at].output[0]
    for node in made:
        node.name = f"{prefix}_{node.output[0]}"
        node.input[:] = [source if name == "i" else name and f"{prefix}{name}" for name in node.input]
        node.output[:] = [f"{prefix}{name}" for name in node.output]
    later = [onnx.NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node[at + 1 :]]
    for node in later:
        node.input[:] = [f"{prefix}o" if name == source else name for name in node.input]
    del proto.graph.node[at + 1 :]
    proto.graph.node.extend([*made, *later])


def _folded(rng: Random, proto: onnx.ModelProto) -> str:
    """A constant that is computed from small ones."""
    a, b = rng.choice(SIZES), rng.choice((1, *SIZES))
    line = rng.choice((
        f"s = Constant<value_ints=[{a}, {b}]>() c = ConstantOfShape(s) r = ReduceSum<keepdims=0>(c) o = Add(i, r)",
        f"s = Constant<value_ints=[{a}, {b}]>() z = Constant<value_float=0.5>() c = Expand(z, s) "
        "r = ReduceMax<keepdims=0>(c) o = Add(i, r)",
        f"s = Constant<value_ints=[{a}]>() z = Constant<value_floats=[0.5]>() c = Tile(z, s) "
        "r = ReduceMax<keepdims=0>(c) o = Mul(i, r)",
        f"l = Constant<value_int=0>() h = Constant<value_int={min(a * b, 2**62)}>() d = Constant<value_int=1>() "
        "c = Range(l, h, d) f = Cast<to=1>(c) r = ReduceMin<keepdims=0>(f) o = Add(i, r)",
        f"z = Constant<value_floats=[1.0]>() p = Constant<value_ints=[{a}, 0]>() c = Pad(z, p) "
        "r = ReduceMin<keepdims=0>(c) o = Add(i, r)",
    ))  # fmt: skip
    _behind(proto, line)
    return line[:100]


def _doubled(rng: Random, proto: onnx.ModelProto) -> str:
    """A constant that is joined to itself again and again."""
    steps = rng.choice((10, 20, 30, 40))
    lines = ["c0 = Constant<value_floats=[1.0, 2.0]>()"]
    lines += [f"c{n + 1} = Concat<axis=0>(c{n}, c{n})" for n in range(steps)]
    _behind(proto, " ".join([*lines, f"r = ReduceMax<keepdims=0>(c{steps})", "o = Add(i, r)"]))
    return f"{steps} times"


def _functions(rng: Random, proto: onnx.ModelProto) -> str:
    """Functions that call one another: twice each, in a circle, or in a long row."""
    form, depth = rng.choice(("twice", "circle", "row")), rng.choice((3, 20, 40, 500))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("many", 1)]

    def function(number: int, *calls: str) -> FunctionProto:
        nodes = [helper.make_node(op, [f"v{n}"], [f"v{n + 1}"], domain="many" if op[0] == "F" else "", name=f"n{n}")
                 for n, op in enumerate(calls)]  # fmt: skip
        return helper.make_function("many", f"F{number}", ["v0"], [f"v{len(calls)}"], nodes, opsets)

    proto.functions.append(function(0, f"F{depth - 1}" if form == "circle" else "Relu"))
    for number in range(1, depth):
        proto.functions.append(function(number, *[f"F{number - 1}"] * (2 if form == "twice" else 1)))
    proto.opset_import.append(opsets[1])
    _behind(proto, f"o = many.F{depth - 1}(i)")
    return f"{form}, {depth}"


def _branches(rng: Random, proto: onnx.ModelProto) -> str:
    """An If in an If in an If."""
    depth = rng.choice((3, 10, 28))
    graph = helper.make_graph([helper.make_node("Relu", ["c"], ["r"])], "inner", [], [_value("r")])
    source = next(node.output[0] for node in proto.graph.node if node.name == "relu1")
    graph.node[0].input[0] = source
    for level in range(depth):
        same = helper.make_node("Identity", [source], [f"e{level}"])
        other = helper.make_graph([same], "else", [], [_value(f"e{level}")])
        name = f"i{level}"
        node = helper.make_node("If", ["yes"], [name], f"if{level}", then_branch=graph, else_branch=other)
        graph = helper.make_graph([node], f"level{level}", [], [_value(name)])
    proto.graph.initializer.append(helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True]))
    _behind(proto, "o = Identity(i)")
    last = next(node for node in proto.graph.node if node.name == "big_o")
    last.CopyFrom(graph.node[0])
    last.output[0] = "bigo"
    return f"{depth} deep"


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _long(rng: Random, proto: onnx.ModelProto) -> str:
    """Very many nodes in a row."""
    op, count = rng.choice(("Relu", "Identity", "Neg", "Dropout")), rng.choice((300, 1000))
    lines = [f"v{n + 1} = {op}({f'v{n}' if n else 'i'})" for n in range(count)]
    _behind(proto, " ".join([*lines, f"o = Identity(v{count})"]))
    return f"{count} {op}"


def _shapes(rng: Random, proto: onnx.ModelProto) -> str:
    """Sizes of the input, and attributes, that a runtime would allocate by."""
    size = rng.choice(SIZES)
    match rng.randrange(4):
        case 0:
            proto.graph.input[0].type.tensor_type.shape.dim[rng.randrange(4)].dim_value = size
            return f"an input dimension of {size}"
        case 1:
            _behind(proto, f"p = Constant<value_ints=[0,0,{size},{size},0,0,{size},{size}]>() o = Pad(i, p)")
            return f"a Pad of {size}"
        case 2:
            _behind(proto, f"o = AveragePool<kernel_shape=[3,3], pads=[{size},{size},{size},{size}]>(i)")
            return f"pads of {size}"
    _behind(proto, f"s = Constant<value_floats=[1.0,1.0,{size}.0,{size}.0]>() o = Resize(i, , s)")
    return f"a Resize by {size}"


def _many(rng: Random, proto: onnx.ModelProto) -> str:
    """Thousands of what there is one of, and very long names."""
    match rng.randrange(3):
        case 0:
            for number in range(3000):
                proto.graph.initializer.append(helper.make_tensor(f"extra{number}", onnx.TensorProto.FLOAT, [1], [0.0]))
            return "initializers"
        case 1:
            for number in range(2000):
                proto.metadata_props.add(key=f"qpipe.{number}", value="x" * 100)
            return "metadata"
    name = "n" * 10**6
    proto.graph.node[0].name = name
    proto.graph.node[0].output[0] = name
    proto.graph.node[1].input[0] = name
    return "a name of a million letters"


CHANGES: Final[tuple[Callable[[Random, onnx.ModelProto], str], ...]] = (
    _folded, _folded, _doubled, _functions, _branches, _long, _shapes, _shapes, _many,
)  # fmt: skip
