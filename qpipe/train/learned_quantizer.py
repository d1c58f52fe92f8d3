"""LQ-Net's activations as they train: the levels follow the batches."""

from __future__ import annotations

import numpy as np
import torch

from qpipe.arith.table import SIZE, CodeTable
from qpipe.errors import ModelError
from qpipe.formats.lq import averaged, lq_table, solve
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ops import ActivationFunction
from qpipe.train.quantizer import Quantizer
from qpipe.train.straight_through import fake_look_up


class LearnedQuantizer(Quantizer):
    """A table that is made from `basis`, float32 `[1, K]`, which moves in every forward of training, and then only.

    The gradient is straight through up to the largest level.
    """

    basis: torch.Tensor

    def __init__(
        self, table: CodeTable, basis: tuple[float, ...], function: ActivationFunction | None = None, *, carries: bool
    ) -> None:
        super().__init__(table, function, carries=carries)
        self.levels = None
        self.register_buffer("basis", torch.tensor([basis]))

    def table(self) -> CodeTable:
        """What the basis makes as it is now."""
        return lq_table(self.basis[0].cpu().numpy(), self.rounded_to)

    def current_levels(self) -> torch.Tensor:
        """Of the table."""
        return torch.from_numpy(self.table().levels()).to(self.basis.device)

    def _fake(self, x: torch.Tensor, overwrite: bool) -> torch.Tensor:
        levels = self.current_levels()
        y, index = fake_look_up(x, self.rounded_to, levels, top=float(levels.max()), inplace=overwrite)
        self._learn(index)
        return y

    def _learn(self, index: torch.Tensor) -> None:
        """One iteration of QEM on a batch of the 8-bit codes."""
        counts = torch.bincount(index.flatten(), minlength=SIZE).cpu().numpy()
        x, basis = np.arange(SIZE) * self.rounded_to.scale, self.basis.cpu().numpy()
        moved = averaged(basis, solve(x[None], basis, 0, counts[None]))
        self.basis = torch.from_numpy(moved).to(self.basis.device)


def quantizer_of(
    quantizer: ActivationQuantizer, function: ActivationFunction | None = None, *, carries: bool = False
) -> Quantizer:
    """The module of a quantizer; ModelError where its table is not what its basis makes."""
    if quantizer.table is None or quantizer.basis is None:
        return Quantizer(quantizer.grid_or_table, function, carries=carries)
    learned = LearnedQuantizer(quantizer.table, quantizer.basis, function, carries=carries)
    if learned.table() != quantizer.table:
        raise ModelError(f"quantizer '{quantizer.codes.name}': its table is not the one that its basis makes")
    return learned
