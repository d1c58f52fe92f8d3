"""What single layers are told apart from all others by a pattern of their names: widths, clips, to stay float.

A pattern (`*`, `?`, `[a-z]`) is tried on the names that `qpipe inspect` shows, whole and from behind each `/`, so
`layer3.*` is all of `/layer3/layer3.0/conv1/Conv`, and `/conv1/*` only what is at the top. A layer is hit by the name
of any of its nodes. Of several entries that hit a layer each later one has the last word on what it gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase

import onnx_ir as ir

from qpipe.errors import RecipeError
from qpipe.ir.graph.layers import Layer
from qpipe.ops import Role

_NEAR = 3  # names that a message suggests


@dataclass(frozen=True)
class LayerOptions:
    """One entry. None: as all other layers. activation_bits: of the layer's output."""

    match: str
    weight_bits: int | None = None
    activation_bits: int | None = None
    weight_clip: float | None = None
    stays_float: bool | None = None

    def __str__(self) -> str:
        """As on the command line: `layer3.*:weight_bits=4,activation_bits=4`."""
        given = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        told = [f"{name}={_word(value)}" for name, value in given.items() if value is not None]
        return f"{self.match}:" + ",".join(told)

    def updated(self, later: LayerOptions) -> LayerOptions:
        """These options, and those that `later` gives instead."""
        names = [field.name for field in fields(self)]
        return LayerOptions(*(getattr(self if getattr(later, n) is None else later, n) for n in names))

    def hits(self, layer: Layer) -> bool:
        """Whether the pattern matches a name of the layer, or what follows a `/` in it."""
        return any(matches(name, self.match) for name in _names(layer))


@dataclass(frozen=True)
class LayerTable:
    """All entries, in order."""

    entries: tuple[LayerOptions, ...] = ()

    def __str__(self) -> str:
        """The entries, apart by semicolons."""
        return "; ".join(map(str, self.entries))

    def of_layers(self, layers: Iterable[Layer], last: Iterable[ir.Node]) -> dict[ir.Node, LayerOptions]:
        """The options of each layer that is hit, by its main node; RecipeError where an entry has nothing to act on.

        layers: carriers among them have the width of their input, so no pattern looks for them. last: main nodes whose
        output is int32.
        """
        able = [layer for layer in layers if layer.role is not Role.CARRY]
        found: dict[ir.Node, LayerOptions] = {}
        for entry in self.entries:
            if entry.stays_float is not None:
                continue  # It has been told (`passes/quantizing/keep_float.py`).
            hit = layers_hit(entry, able)
            _check_has(entry, hit, set(last))
            for layer in hit:
                found[layer.node] = found.get(layer.node, entry).updated(entry)
        return found


NO_OPTIONS = LayerTable()


def matches(name: str, pattern: str) -> bool:
    """Whether the pattern matches the name, or what follows a `/` in it."""
    return any(fnmatchcase(tail, pattern) for tail in tails(name))


def tails(name: str) -> list[str]:
    """`/a/b` itself, `a/b` and `b`."""
    return [name, *(name[i + 1 :] for i, letter in enumerate(name) if letter == "/")]


def names_like(pattern: str, named: Sequence[tuple[str, str]]) -> str:
    """A few names for a message, those first that look like the pattern; named: what it may match, and what to tell."""
    by_tail = {tail: told for name, told in named for tail in tails(name)}
    near = [by_tail[tail] for tail in get_close_matches(pattern, by_tail, n=2 * _NEAR, cutoff=0.3)]
    return ", ".join(map(repr, list(dict.fromkeys([*near, *(told for _, told in named)]))[:_NEAR]))


def _names(layer: Layer) -> list[str]:
    return [Layer(node).name for node in layer.nodes]


def layers_hit(entry: LayerOptions, layers: Sequence[Layer]) -> list[Layer]:
    """Those of the entry; RecipeError where there is none."""
    hit = [layer for layer in layers if entry.hits(layer)]
    if not hit:
        names = names_like(entry.match, [(name, layer.name) for layer in layers for name in _names(layer)])
        raise RecipeError(f"layer {entry.match!r}: matches no layer, expected a pattern of names such as {names}")
    return hit


def _word(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _check_has(entry: LayerOptions, hit: list[Layer], last: set[ir.Node]) -> None:
    """Refuse an entry none of whose layers has what it speaks of."""
    has_weights = any(layer.is_weighted for layer in hit)
    if not has_weights and (entry.weight_bits or entry.weight_clip) is not None:
        raise RecipeError(f"layer {entry.match!r}: no layer that it matches has weights, such as '{hit[0].name}'")
    if entry.activation_bits is not None and all(layer.node in last for layer in hit):
        raise RecipeError(f"layer {entry.match!r}: activation_bits, but '{hit[0].name}' is last and gives int32")
