"""Names of residual blocks: the module that PyTorch's exporters write into the names of nodes or of weights.

"/layer1/layer1.0/conv1/Conv" and "/layer1/layer1.0/conv2/Conv" have "/layer1/layer1.0" in common: the block is
"layer1.0". Where the nodes' names tell nothing ("node_conv2d_3"), those of the parameters do ("layer1.0.conv1.weight").
A prefix that layers outside of the block have too names no block: it would change with what else is in the graph. The
last resort is the Add's own name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import onnx_ir as ir

from qpipe.ir.graph.layers import Layer
from qpipe.ops.quantizer_parts import stored

Path = tuple[str, ...]


def name_blocks(graph: ir.Graph, blocks: Sequence[tuple[Sequence[ir.Node], Sequence[ir.Node], ir.Node]]) -> list[str]:
    """A unique name for each block, given as all its weighted nodes, those of its main path, and its Add."""
    everywhere = [node for node in graph if Layer(node).is_weighted]
    by_nodes, by_parameters = (_Prefixes(everywhere, modules) for modules in (_scopes, _modules))
    names = [
        _node_name(by_nodes.own(main, inside)) or ".".join(by_parameters.own(main, inside)) or Layer(add).name
        for inside, main, add in blocks
    ]
    counts = Counter(names)
    return [name if counts[name] == 1 else Layer(add).name for name, (_, _, add) in zip(names, blocks, strict=True)]


class _Prefixes:
    """How many layers of the graph lie in each module, and in those that hold it.

    They are counted once: of a thousand blocks each one asks whether another layer lies in its own module.
    """

    def __init__(self, nodes: Iterable[ir.Node], modules: Callable[[ir.Node], list[Path]]) -> None:
        self._modules = {node: modules(node) for node in nodes}
        self._counts = self._count(self._modules)

    def own(self, main: Sequence[ir.Node], inside: Iterable[ir.Node]) -> Path:
        """The longest common prefix of `main`, of a single module the one that holds it; empty where a layer that is
        not inside has it too.
        """
        paths = [path for node in main for path in self._modules[node]]
        prefix = tuple(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
        if prefix in paths:
            prefix = prefix[:-1]
        return prefix if self._counts[prefix] == self._count(inside)[prefix] else ()

    def _count(self, nodes: Iterable[ir.Node]) -> Counter[Path]:
        return Counter(path[:end] for node in nodes for path in self._modules[node] for end in range(len(path) + 1))


def _node_name(prefix: Path) -> str:
    """Without what stands before the last module with a dot: that is a whole path (of "layer1", its child 0)."""
    begin = max((index for index, part in enumerate(prefix) if "." in part), default=0)
    return ".".join(part for part in prefix[begin:] if part)


def _scopes(node: ir.Node) -> list[Path]:
    """The module in the node's own name: what stands before the last "/"."""
    return [tuple((node.name or "").split("/")[:-1])]


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
