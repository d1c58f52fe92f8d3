"""The residual blocks whose convolutions are binary, as the pass that made them wrote them down.

A block of which every convolution has its own shortcut looks like several blocks. What its layers are stays known:
which have binary weights, and what training takes as one block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir
from pydantic import JsonValue

from qpipe.errors import ModelError
from qpipe.ir.files.metadata import BINARY, get_json, set_json


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
    entries: list[JsonValue] = [
        {"name": b.name, "layers": list(b.layers), "end": b.end, "sums": list(b.sums)} for b in blocks
    ]
    set_json(model, BINARY, entries)


def binary_blocks(model: ir.Model) -> list[BinaryBlock]:
    """The stored blocks, in order; none in a network that is not binary."""
    stored = get_json(model, BINARY)
    if stored is None:
        return []
    if not isinstance(stored, list):
        raise ModelError(f"metadata 'qpipe.{BINARY}': is a JSON {type(stored).__name__}, expected a list")
    return [_block(entry) for entry in stored]


def binary_layers(model: ir.Model) -> frozenset[str]:
    """The names of all layers with binary weights."""
    return frozenset(name for block in binary_blocks(model) for name in block.layers)


def _block(entry: JsonValue) -> BinaryBlock:
    if isinstance(entry, dict):
        name, layers, end, sums = entry.get("name"), entry.get("layers"), entry.get("end"), entry.get("sums", [])
        if isinstance(name, str) and isinstance(layers, list) and isinstance(end, str) and isinstance(sums, list):
            return BinaryBlock(name, tuple(map(str, layers)), end, tuple(map(str, sums)))
    raise ModelError(f"metadata 'qpipe.{BINARY}': entry {entry!r}, expected an object with 'name', 'layers' and 'end'")
