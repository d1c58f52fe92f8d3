"""The sizes of a network's inputs that its file leaves open: those that it is computed at, and how they are opened.

A file can leave height, width or length open; qpipe computes at sizes that are fixed. Where the file that is written
holds nothing of them, it is opened again: its metadata `qpipe.sizes` say what it was computed at, for whoever loads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from qpipe.errors import ModelError, near
from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.files.metadata import checked, get_object, set_json

SIZES: Final = "sizes"
BARE: Final = ""
"""The name of a shape that was given without one: of the network's only input."""

Shapes = Mapping[str, Sequence[int]]
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class InputSizes:
    """Of one input: `at`, what it is computed at, None where the batch is open; `declared`, as the file has it."""

    at: tuple[int | None, ...]
    declared: Dims


def fix_sizes(model: ir.Model, shapes: Shapes) -> None:
    """Compute at these shapes, by the inputs' names, and remember what the file leaves open.

    shapes: all sizes, or all but the first; then the batch stays as it is. `BARE` is the name of an only input.
    ModelError where one is no input's, or differs from what the file says.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    known = read_sizes(model)
    for name, shape in shapes.items():
        value = _only(model.graph, shape) if name == BARE else inputs.get(name)
        if value is None:
            raise ModelError(f"input shape {shown(name, shape)}: there is no such input, {near(name, list(inputs))}")
        declared = known[str(value.name)].declared if str(value.name) in known else dims_of(value)
        at = _agreed(shape, declared, f"input shape {shown(name, shape)}", value)
        if declared is None or any(not isinstance(dim, int) for dim in declared[len(at) - len(shape) :]):
            known[str(value.name)] = InputSizes(at=at, declared=declared or (None,) * len(at))
    _compute_at(model, known)


def restore_sizes(model: ir.Model) -> None:
    """Compute at the sizes that a file's metadata say; ModelError where these are no sizes of its inputs."""
    known = read_sizes(model)
    inputs = {str(value.name): value for value in model.graph.inputs}
    for name, sizes in known.items():
        if name not in inputs:
            raise ModelError(f"metadata 'qpipe.{SIZES}': '{name}' is no input, expected {', '.join(inputs) or 'none'}")
        found = dims_of(inputs[name])
        is_known = found is not None and len(found) == len(sizes.at) == len(sizes.declared)
        pairs = zip(found or (), sizes.at, strict=False)
        if not is_known or any(isinstance(dim, int) and at not in (dim, None) for dim, at in pairs):
            raise ModelError(f"metadata 'qpipe.{SIZES}': '{name}' at {list(sizes.at)} is not {shown_dims(found)}")
    if known:
        _compute_at(model, known)


def read_sizes(model: ir.Model) -> dict[str, InputSizes]:
    """What the model carries, by the inputs' names: none where its file leaves nothing open."""
    stored = get_object(model, SIZES)
    return {} if stored is None else checked(SIZES, stored, dict[str, InputSizes])


def store_sizes(model: ir.Model, known: Mapping[str, InputSizes]) -> None:
    """Let the model carry them."""
    set_json(
        model,
        SIZES,
        {name: {"at": list(sizes.at), "declared": list(sizes.declared)} for name, sizes in known.items()} or None,
    )


def open_sizes(model: ir.Model) -> None:
    """Let the graph be of any size again, as its file declared it; it remembers what it was computed at."""
    known = read_sizes(model)
    for value in model.graph.inputs:
        if str(value.name) in known:
            value.shape = ir.Shape(known[str(value.name)].declared)
    if known:
        _infer_anew(model)


def open_batch(model: ir.Model) -> None:
    """Compute at the same sizes, but at any batch where the file leaves it open."""
    known = {
        name: InputSizes(at=(None, *sizes.at[1:]), declared=sizes.declared)
        for name, sizes in read_sizes(model).items()
        if sizes.declared and not isinstance(sizes.declared[0], int)
    }
    _compute_at(model, read_sizes(model) | known)


def forget_sizes(model: ir.Model) -> None:
    """The graph holds its sizes: what it is computed at is all that it takes."""
    set_json(model, SIZES, None)


def dims_of(value: ir.Value) -> Dims | None:
    """Its sizes: a number, a name, or None; None of an unknown rank."""
    return None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)


def shown(name: str, shape: Sequence[int | None]) -> str:
    """As the command line has it: "x=1,3,224,224"."""
    sizes = ",".join(map(str, shape))
    return sizes if name == BARE else f"{name}={sizes}"


def shown_dims(dims: Dims | None) -> str:
    """Such as "[N, 3, H, W]"; "of unknown shape" where even the rank is."""
    return "of unknown shape" if dims is None else f"[{', '.join(str(d) if d is not None else '?' for d in dims)}]"


def _only(graph: ir.Graph, shape: Sequence[int]) -> ir.Value:
    if len(graph.inputs) != 1:
        names = ", ".join(f"'{value.name}'" for value in graph.inputs) or "none"
        sizes = ",".join(map(str, shape))
        raise ModelError(f"input shape {sizes}: the network's inputs are {names}, expected NAME={sizes} for one")
    return graph.inputs[0]


def _agreed(shape: Sequence[int], declared: Dims | None, said: str, value: ir.Value) -> tuple[int | None, ...]:
    """All sizes; None for a batch that was not given and is open."""
    if declared is None:
        return tuple(shape)
    missing = len(declared) - len(shape)
    at = (*declared[:missing], *shape)
    if missing not in (0, 1) or any(isinstance(d, int) and d != s for d, s in zip(declared, at, strict=True)):
        raise ModelError(f"{said}: input '{value.name}' is {shown_dims(declared)}, expected sizes that fit it")
    return tuple(size if isinstance(size, int) else None for size in at)


def _compute_at(model: ir.Model, known: Mapping[str, InputSizes]) -> None:
    for value in model.graph.inputs:
        if (sizes := known.get(str(value.name))) is not None:
            batch = sizes.declared[:1]
            value.shape = ir.Shape([*(batch if sizes.at[:1] == (None,) else sizes.at[:1]), *sizes.at[1:]])
    store_sizes(model, known)
    _infer_anew(model)


def _infer_anew(model: ir.Model) -> None:
    """The shapes of all that nodes give; of an output that inference doesn't reach, its rank."""
    ranks = {value: len(value.shape) for value in model.graph.outputs if value.shape is not None}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.shape = None
    infer_shapes(model)
    for value, rank in ranks.items():
        value.shape = value.shape or ir.Shape([None] * rank)
