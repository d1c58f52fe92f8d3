"""The blocks whose skips are gone, as `strip-skips` wrote them down: what their layers were is known all the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated

import onnx_ir as ir
from pydantic import Field

from qpipe.ir.files.metadata import PLAIN, checked, get_json, set_json


@dataclass(frozen=True)
class StrippedBlock:
    """layers: names of the weighted nodes of its main path, in order. removed: names of the nodes that went."""

    name: str
    layers: Annotated[tuple[str, ...], Field(min_length=1)]
    removed: tuple[str, ...] = ()


def add_stripped_blocks(model: ir.Model, blocks: Iterable[StrippedBlock]) -> None:
    """Store the blocks in the model's metadata, behind those that were stripped before."""
    set_json(model, PLAIN, [asdict(block) for block in (*stripped_blocks(model), *blocks)])


def stripped_blocks(model: ir.Model) -> list[StrippedBlock]:
    """The stored blocks, in order; ModelError where the metadata are not as they are written here."""
    stored = get_json(model, PLAIN)
    return [] if stored is None else checked(PLAIN, stored, list[StrippedBlock])
