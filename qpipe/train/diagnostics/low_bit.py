"""What low-bit formats would lose of the weights, activations and errors of a training step.

Weights, activations and errors are what a step's products multiply, as they are before anything quantizes them: an
error is the gradient at a product's result. They are looked at in a few steps of the run, over at most the first
`IMAGES` images of the batch, and quantized, for the figures only and to nearest, in all formats of `FORMATS`, whatever
the network trains in.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, Figures 3 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, get_args

import torch

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, Grouping, MlsFormat
from qpipe.arith.mls.generators import Role
from qpipe.nodes import group_count
from qpipe.train.diagnostics.measurement import Measurement
from qpipe.train.diagnostics.moments import IsDue
from qpipe.train.diagnostics.relative_error import below_half, group_maxima, relative_errors
from qpipe.train.executor import Executor
from qpipe.train.low_bit import as_convolution
from qpipe.train.step import ProductStep

IMAGES: Final = 128
"""As many as a batch of the paper's has."""
MANTISSA: Final = 3
EXPONENTS: Final = (0, 1, 2, 3)
GROUPINGS: Final[tuple[Grouping, ...]] = get_args(Grouping)


def _format(exponent: int, grouping: Grouping) -> MlsFormat:
    return MlsFormat(ElementFormat(exponent, MANTISSA), grouping, GroupFormat(8, 1))


FORMATS: Final = tuple(
    dict.fromkeys(
        [
            *(_format(0, grouping) for grouping in GROUPINGS),
            *(_format(exponent, grouping) for grouping in ("none", "nc") for exponent in EXPONENTS),
        ]
    )
)
"""Figure 3's three rows, whose first formats are in two of them."""
ROLES: Final[tuple[Role, ...]] = get_args(Role)
GROUPED: Final[tuple[Role, ...]] = ("activation", "error")
SPLITS: Final = ("channel", "sample", "both")
"""How these two are split into groups whose maxima are compared."""


class LowBitErrors(Measurement):
    """Looks at the operands of these products in the steps that are due.

    Group maxima as such are kept of the layer in the middle alone, of the last step; of all layers how many of them lie
    below half of the largest.
    """

    def __init__(self, steps: Sequence[ProductStep], is_due: IsDue) -> None:
        self._steps, self._is_due = steps, is_due
        self._updates: list[int] = []
        # Of each of these updates: [roles, formats, layers], and of activations and errors [2, splits, layers].
        self._errors: list[torch.Tensor] = []
        self._below: list[torch.Tensor] = []
        self._maxima: dict[str, torch.Tensor] = {}
        self._done, self._seen = 0, set[int]()

    def on_start(self, executor: Executor) -> None:
        """Watch the products."""
        for index, step in enumerate(self._steps):
            step.module.watch(partial(self._look, index))

    def after_update(self, executor: Executor, step: int) -> None:
        """Count."""
        self._done, self._seen = step, set()

    def state(self) -> dict[str, torch.Tensor]:
        """All that was measured, and how many updates there were."""
        kept = {"done": torch.tensor(self._done), "updates": torch.tensor(self._updates)}
        if self._updates:
            kept |= {"errors": torch.stack(self._errors), "below": torch.stack(self._below)}
        return kept | {f"maxima.{name}": values for name, values in self._maxima.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        self._done, self._updates = int(state["done"]), [int(update) for update in state["updates"]]
        self._errors, self._below = list(state.get("errors", ())), list(state.get("below", ()))
        self._maxima = {
            name.removeprefix("maxima."): values for name, values in state.items() if name.startswith("maxima.")
        }

    def result(self) -> dict[str, Any]:
        """`low_bit`: by role, then for each update, format and layer; None of what was all zeros, or not finite."""
        if not self._updates:
            return {"low_bit": None}
        names = [step.layer.name for step in self._steps]
        errors, below = torch.stack(self._errors), torch.stack(self._below)
        return {
            "low_bit": {
                "layers": names,
                "updates": self._updates,
                "formats": [
                    {"element": [fmt.element.exponent, fmt.element.mantissa], "grouping": fmt.grouping}
                    for fmt in FORMATS
                ],
                "relative_error": {role: _plain(errors[:, i]) for i, role in enumerate(ROLES)},
                "below_half": {
                    role: {split: _plain(below[:, i, j]) for j, split in enumerate(SPLITS)}
                    for i, role in enumerate(GROUPED)
                },
                "maxima_layer": names[self._middle],
                "maxima": {
                    role: {split: _plain(self._maxima[f"{role}.{split}"]) for split in SPLITS[:2]} for role in GROUPED
                },
            }
        }

    @property
    def _middle(self) -> int:
        return len(self._steps) // 2

    def _look(self, index: int, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
        """Of several batches in one update the first counts."""
        if index in self._seen or not self._is_due(self._done + 1):
            return
        if not self._seen:
            self._begin()
        self._seen.add(index)
        node = self._steps[index].layer.node

        def of_images(role: Role, tensor: torch.Tensor) -> None:
            operand = as_convolution(node, tensor[:IMAGES], role)
            self._measure(index, role, operand)
            self._compare(index, role, operand)

        self._measure(index, "weight", as_convolution(node, w, "weight"), groups=group_count(node))
        of_images("activation", x)
        y.register_hook(partial(of_images, "error"))  # type: ignore[no-untyped-call]

    def _begin(self) -> None:
        self._updates.append(self._done + 1)
        layers = len(self._steps)
        self._errors.append(torch.full((len(ROLES), len(FORMATS), layers), torch.nan, dtype=torch.float64))
        self._below.append(torch.full((len(GROUPED), len(SPLITS), layers), torch.nan, dtype=torch.float64))

    @torch.no_grad()
    def _measure(self, index: int, role: Role, x: torch.Tensor, *, groups: int = 1) -> None:
        if x.isfinite().all():
            errors = relative_errors(x.detach().float(), FORMATS, groups=groups)
            self._errors[-1][ROLES.index(role), :, index] = errors.cpu()

    @torch.no_grad()
    def _compare(self, index: int, role: Role, x: torch.Tensor) -> None:
        maxima = group_maxima(x.detach().float())
        shares = torch.stack([below_half(maxima[split]) for split in SPLITS])
        self._below[-1][GROUPED.index(role), :, index] = shares.cpu()
        if index == self._middle:
            self._maxima |= {f"{role}.{split}": maxima[split].cpu() for split in SPLITS[:2]}


def _plain(values: torch.Tensor) -> Any:
    """Nested lists of numbers with four digits; None where one is not finite."""
    if values.ndim:
        return [_plain(part) for part in values]
    value = values.item()
    return float(f"{value:.4g}") if math.isfinite(value) else None
