"""The residual blocks of a network as steps of its executor, those whose skips were stripped among them.

A binary network's are those that it had before each convolution got a shortcut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.graph.binary_blocks import binary_blocks
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.residual import find_blocks, weighted
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.train.companions.navigation import step_with
from qpipe.train.executor import Executor
from qpipe.train.step import ProductStep, Step


@dataclass(frozen=True)
class Block:
    """products: the steps of the main path that multiply, in order. end: the step whose value leaves the block.

    has_skip: whether `end` is an Add; else it is the last product of the main path. on_skip: the products of the skip:
    a projection, where it has one.
    """

    name: str
    products: tuple[ProductStep, ...]
    end: Step
    has_skip: bool
    on_skip: tuple[ProductStep, ...] = ()


def blocks_of(model: ir.Model, executor: Executor) -> list[Block]:
    """The blocks in order; one that lies within another's main path is left out. ModelError where there is none."""
    found = [
        Block(
            name=block.name,
            products=_products(executor, [Layer(node).name for node in block.layers]),
            end=step_with(executor, str(block.add.name)),
            has_skip=True,
            on_skip=_products(executor, [Layer(node).name for node in weighted(block.skip_nodes)]),
        )
        for block in find_blocks(model.graph)
    ]
    nodes = {node.name for node in model.graph}
    for binary in binary_blocks(model):
        products = _products(executor, binary.layers)
        # Of bases it is the sum that leaves the block where the Add behind it is gone.
        ends = [name for name in (*binary.sums, binary.end) if name in nodes]
        end = step_with(executor, ends[-1]) if ends else products[-1]
        found.append(Block(binary.name, products, end, has_skip=bool(ends)))
    for stripped in stripped_blocks(model):
        products = _products(executor, stripped.layers)
        found.append(Block(stripped.name, products, products[-1], has_skip=False))
    if not found:
        raise ModelError(
            "no residual blocks, and none were stripped, expected some for the method 'ag', additional_losses, "
            "joint_distillation, and ssp, unless its fragments are layers"
        )
    outer: list[Block] = []
    for block in sorted(found, key=lambda block: (block.products[0].position, -len(block.products))):
        if not outer or block.products[0].position > outer[-1].products[-1].position:
            outer.append(block)
    return outer


def _products(executor: Executor, names: Sequence[str]) -> tuple[ProductStep, ...]:
    steps = [step_with(executor, name) for name in names]
    return tuple(step for step in steps if isinstance(step, ProductStep))
