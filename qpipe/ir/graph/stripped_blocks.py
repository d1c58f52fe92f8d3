"""The blocks whose skips are gone, as `strip-skips` wrote them down: what their layers were is known all the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from pydantic import JsonValue

from qpipe.errors import ModelError
from qpipe.ir.files.metadata import PLAIN, get_json, set_json


@dataclass(frozen=True)
class StrippedBlock:
    """layers: names of the weighted nodes of its main path, in order. removed: names of the nodes that went."""

    name: str
    layers: tuple[str, ...]
    removed: tuple[str, ...] = ()


def add_stripped_blocks(model: ir.Model, blocks: Iterable[StrippedBlock]) -> None:
    """Store the blocks in the model's metadata, behind those that were stripped before."""
    entries: list[JsonValue] = [
        {"name": block.name, "layers": list(block.layers), "removed": list(block.removed)}
        for block in (*stripped_blocks(model), *blocks)
    ]
    set_json(model, PLAIN, entries)


def stripped_blocks(model: ir.Model) -> list[StrippedBlock]:
    """The stored blocks, in order; ModelError where the metadata are not as they are written here."""
    stored = get_json(model, PLAIN)
    if not isinstance(stored, list | None):
        raise ModelError(f"metadata 'qpipe.{PLAIN}': is a JSON {type(stored).__name__}, expected a list")
    return [_block(entry) for entry in stored or []]


def _block(entry: JsonValue) -> StrippedBlock:
    if isinstance(entry, dict):
        name, layers, removed = entry.get("name"), entry.get("layers"), entry.get("removed", [])
        if isinstance(name, str) and isinstance(layers, list) and layers and isinstance(removed, list):
            return StrippedBlock(name, _texts(layers), _texts(removed))
    raise ModelError(f"metadata 'qpipe.{PLAIN}': has {entry!r}, expected a block's name and its layers")


def _texts(values: Sequence[JsonValue]) -> tuple[str, ...]:
    return tuple(map(str, values))
