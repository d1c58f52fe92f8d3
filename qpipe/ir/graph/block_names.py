"""Names of residual blocks: the module that PyTorch's exporters write into the names of nodes or of weights.

"/layer1/layer1.0/conv1/Conv" and "/layer1/layer1.0/conv2/Conv" have "/layer1/layer1.0" in common: the block is
"layer1.0". Where the nodes' names tell nothing ("node_conv2d_3"), those of the parameters do ("layer1.0.conv1.weight").
A prefix that layers outside of the block have too names no block: it would change with what else is in the graph. The
last resort is the Add's own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

import onnx_ir as ir

from qpipe.ir.graph.layers import Layer
from qpipe.ops.quantizer_parts import stored

Path = tuple[str, ...]


def name_blocks(graph: ir.Graph, blocks: Sequence[tuple[Sequence[ir.Node], Sequence[ir.Node], ir.Node]]) -> list[str]:
    """A unique name for each block, given as all its weighted nodes, those of its main path, and its Add."""
    everywhere = [node for node in graph if Layer(node).is_weighted]
    names = []
    for inside, main, add in blocks:
        outside = set(everywhere).difference(inside)
        names.append(_by_nodes(main, outside) or _by_parameters(main, outside) or Layer(add).name)
    return [
        name if names.count(name) == 1 else Layer(add).name for name, (_, _, add) in zip(names, blocks, strict=True)
    ]


def _by_nodes(main: Sequence[ir.Node], outside: Iterable[ir.Node]) -> str | None:
    """From the modules before the last "/": the last one with a dot is a whole path (of "layer1", its child 0)."""
    prefix = _own_prefix([_scope(node) for node in main], [_scope(node) for node in outside])
    begin = max((index for index, part in enumerate(prefix) if "." in part), default=0)
    return ".".join(part for part in prefix[begin:] if part) or None


def _scope(node: ir.Node) -> Path:
    return tuple((node.name or "").split("/")[:-1])


def _by_parameters(main: Sequence[ir.Node], outside: Iterable[ir.Node]) -> str | None:
    taken = [module for node in outside for module in _modules(node)]
    prefix = _own_prefix([module for node in main for module in _modules(node)], taken)
    return ".".join(prefix) or None


def _modules(node: ir.Node) -> list[Path]:
    """The modules of the node's own parameters; where these tell none, of a BatchNormalization's behind it.

    In pre-activation order that belongs to the next block.
    """
    followers = [user for output in node.outputs for user in output.consumers() if Layer(user).is_batch_norm]
    return _named([node]) or _named(followers)


def _named(readers: Sequence[ir.Node]) -> list[Path]:
    names = [
        str(parameter.name)
        for reader in readers
        for value in reader.inputs[1:]
        if (parameter := stored(value)) is not None and parameter.is_initializer()
    ]
    return list(dict.fromkeys(tuple(name.split(".")[:-1]) for name in names if "." in name))


def _own_prefix(inside: Sequence[Path], outside: Iterable[Path]) -> Path:
    """The longest common prefix, of a single module the one that holds it; empty where others have it too."""
    if not inside:
        return ()
    prefix = tuple(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*inside, strict=False)))
    if prefix in inside:
        prefix = prefix[:-1]
    return () if any(path[: len(prefix)] == prefix for path in outside) else prefix
