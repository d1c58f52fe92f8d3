"""The residual blocks of a network by the keys of the executor's layers, those whose skips were stripped among them.

A binary network's are those that it had before each convolution got a shortcut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.graph.binary_blocks import binary_blocks
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.train.companions.navigation import key_of
from qpipe.train.executor import Executor


@dataclass(frozen=True)
class Block:
    """layers: keys of the weighted layers of the main path, in order. end: of the layer whose result leaves the block.

    has_skip: whether `end` is an Add; else it is the last layer of the main path.
    """

    name: str
    layers: tuple[str, ...]
    end: str
    has_skip: bool


def blocks_of(model: ir.Model, executor: Executor) -> list[Block]:
    """The blocks in order; one that lies within another's main path is left out. ModelError where there is none."""
    found = [
        Block(
            name=block.name,
            layers=_keys(executor, [Layer(node).name for node in block.layers]),
            end=key_of(executor, str(block.add.name)),
            has_skip=True,
        )
        for block in find_blocks(model.graph)
    ]
    nodes = {node.name for node in model.graph}
    for binary in binary_blocks(model):
        keys = _keys(executor, binary.layers)
        # Of bases it is the sum that leaves the block where the Add behind it is gone.
        ends = [name for name in (*binary.sums, binary.end) if name in nodes]
        end = key_of(executor, ends[-1]) if ends else keys[-1]
        found.append(Block(binary.name, keys, end, has_skip=bool(ends)))
    for stripped in stripped_blocks(model):
        keys = _keys(executor, stripped.layers)
        found.append(Block(stripped.name, keys, keys[-1], has_skip=False))
    if not found:
        raise ModelError(
            "no residual blocks, and none were stripped, expected some for the method 'ag', additional_losses, "
            "joint_distillation, and ssp, unless its fragments are layers"
        )
    outer: list[Block] = []
    for block in sorted(found, key=lambda block: (int(block.layers[0]), -len(block.layers))):
        if not outer or int(block.layers[0]) > int(outer[-1].layers[-1]):
            outer.append(block)
    return outer


def _keys(executor: Executor, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(key_of(executor, name) for name in names)
