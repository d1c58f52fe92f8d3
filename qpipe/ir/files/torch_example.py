"""Inputs that a PyTorch module is exported with: their names, their types, and which of their axes is the batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from qpipe.errors import ModelError, near, user_code
from qpipe.ir.files.sizes import BARE, Shapes, shown

if TYPE_CHECKING:
    import torch
    from torch import nn

ExampleLike: TypeAlias = "torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]"
"""A tensor, tensors as `forward` takes them, or tensors by the names of its parameters."""

INPUT: Final = "input"
"""What the only input is called that was given as a shape, or as a tensor alone."""
_BATCH: Final = 2
"""torch.export takes a batch of one for a constant."""


@dataclass(frozen=True)
class Example:
    """tensors: by the names of `forward`'s parameters, or one by its place. is_batched: whether the first axis counts.

    names: of the ONNX model's inputs, in order.
    """

    tensors: dict[str, torch.Tensor] | tuple[torch.Tensor]
    names: tuple[str, ...]
    is_batched: bool

    @property
    def arguments(self) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Positional ones and those by name."""
        return ((), self.tensors) if isinstance(self.tensors, dict) else (self.tensors, {})

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Any]] | tuple[dict[int, Any], ...] | None:
        """The batch, of each tensor, as `torch.onnx.export` is told; None where there is none."""
        import torch

        if not self.is_batched:
            return None
        # One object for all: they are of one batch.
        batch = torch.export.Dim("batch")
        if isinstance(self.tensors, dict):
            return {name: {0: batch} for name in self.tensors}
        return ({0: batch},)

    @property
    def words(self) -> str:
        """Such as "input [batch, 3, 32, 32]"."""
        tensors = self.tensors.values() if isinstance(self.tensors, dict) else self.tensors
        shapes = [["batch", *x.shape[1:]] if self.is_batched else list(x.shape) for x in tensors]
        pairs = zip(self.names, shapes, strict=True)
        return ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in pairs)


def of_shapes(module: nn.Module, shapes: Shapes, name: str) -> Example:
    """Zeros of these shapes, without the batch; `name` stands for the module in messages.

    ModelError where a shape's name is none of `forward`'s parameters, or no memory holds one.
    """
    if len(shapes) == 1 and next(iter(shapes)) in (BARE, INPUT):
        return Example((_zeros(next(iter(shapes.values())), name),), (INPUT,), True)
    known = _parameters(module)
    for given, shape in shapes.items():
        if given not in known:
            raise ModelError(f"{name}: input shape {shown(given, shape)}: there is no such input, {near(given, known)}")
    return Example({given: _zeros(shape, name) for given, shape in shapes.items()}, tuple(shapes), True)


def of_tensors(module: nn.Module, example: ExampleLike, name: str) -> Example:
    """The tensors themselves. Their first axis is the batch where all have one size there.

    ModelError where they are none, or `forward` has no such parameters.
    """
    import torch

    known = _parameters(module)
    if isinstance(example, torch.Tensor):
        example = (example,)
    if not isinstance(example, Mapping):
        if not isinstance(example, Sequence) or len(example) > len(known):
            raise ModelError(f"{name}: the example is {_said(example)}, expected tensors for {', '.join(known)}")
        example = dict(zip(known, example, strict=False))
    for given, tensor in example.items():
        if given not in known:
            raise ModelError(f"{name}: the example has '{given}': there is no such input, {near(str(given), known)}")
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"{name}: the example's '{given}' is {type(tensor).__name__}, expected a tensor")
    tensors = {given: tensor.float() if tensor.is_floating_point() else tensor for given, tensor in example.items()}
    sizes = {tensor.shape[0] if tensor.ndim else None for tensor in tensors.values()}
    is_batched = len(sizes) == 1 and None not in sizes
    if sizes == {1}:
        tensors = {given: tensor.repeat(_BATCH, *[1] * (tensor.ndim - 1)) for given, tensor in tensors.items()}
    return Example(tensors, tuple(tensors), is_batched)


def _zeros(shape: Sequence[int], name: str) -> torch.Tensor:
    import torch

    with user_code(ModelError, f"{name}: {INPUT} [batch, {', '.join(map(str, shape))}] does not fit:"):
        return torch.zeros(_BATCH, *shape)


def _parameters(module: nn.Module) -> list[str]:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(module.forward).parameters.values()
    return [parameter.name for parameter in found if parameter.kind not in variable]


def _said(example: object) -> str:
    return f"{len(example)} tensors" if isinstance(example, Sequence) else type(example).__name__
