"""Mean intersection over union: `TP / (TP + FP + FN)` over all pixels, the mean over the classes that occur."""

from __future__ import annotations

from qpipe.tasks.metrics.confusion import Confusion


class MeanIou(Confusion):
    """Source: Everingham et al. 2010, *The PASCAL Visual Object Classes Challenge*, section 4.3."""

    losses = frozenset({"cross-entropy", "binary"})
    is_dense = True

    def value(self) -> float:
        """Of 1."""
        shares = self.shares(1)
        return float(shares.mean()) if shares.size else 0.0
