"""Running statistics of BatchNormalizations that are estimated anew when the last update is done.

Those that training leaves are a moving average over its last updates, in which weights were others: the more so where
codes are few and oscillate (Nagel et al. 2022, section 2.3.1).
"""

from __future__ import annotations

from qpipe.train.companion import Companion


class FreshStatistics(Companion):
    """Asks for them; how they are estimated, see `qpipe.train.statistics`."""

    def end_training(self) -> bool:
        """Weights stay, but so did statistics for too long."""
        return True
