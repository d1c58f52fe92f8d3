"""F1: the harmonic mean of precision and recall, `2 TP / (2 TP + FP + FN)`.

Of yes-or-no answers over all of them together (micro), of classes the mean over those that occur (macro).
"""

from __future__ import annotations

from qpipe.tasks.metrics.base import CLASSIFYING
from qpipe.tasks.metrics.confusion import Confusion


class F1(Confusion):
    """Source: van Rijsbergen, *Information Retrieval*, 1979, chapter 7."""

    losses = CLASSIFYING

    def value(self) -> float:
        """Of 1; 0 where nothing was there and nothing was said."""
        if self.task.loss == "cross-entropy":
            shares = self.shares(2)
            return float(shares.mean()) if shares.size else 0.0
        # Of one logit the class that counts is 1.
        chosen = slice(1, 2) if self.task.loss == "binary" else slice(None)
        both, said, there = (int(counts[chosen].sum()) for counts in (self.both, self.said, self.there))
        return 2 * both / max(said + there, 1)
