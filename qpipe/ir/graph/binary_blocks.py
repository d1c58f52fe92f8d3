"""The residual blocks whose convolutions are binary, as the pass that made them wrote them down.

A block of which every convolution has its own shortcut looks like several blocks. What its layers are stays known:
which have binary weights, and what training takes as one block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import onnx_ir as ir

from qpipe.ir.files.metadata import BINARY, checked, get_json, set_json


@dataclass(frozen=True)
class BinaryBlock:
    """layers: names of the binary layers, in order. end: name of the Add that the block ends in.

    sums: names of the Adds that sum its bases, in order; none where it has one base.
    """

    name: str
    layers: tuple[str, ...]
    end: str
    sums: tuple[str, ...] = ()


def write_binary_blocks(model: ir.Model, blocks: Iterable[BinaryBlock]) -> None:
    """Store the blocks in the model's metadata."""
    set_json(model, BINARY, [asdict(block) for block in blocks])


def binary_blocks(model: ir.Model) -> list[BinaryBlock]:
    """The stored blocks, in order; none in a network that is not binary; ModelError where they are none."""
    stored = get_json(model, BINARY)
    return [] if stored is None else checked(BINARY, stored, list[BinaryBlock])


def binary_layers(model: ir.Model) -> frozenset[str]:
    """The names of all layers with binary weights."""
    return frozenset(name for block in binary_blocks(model) for name in block.layers)
