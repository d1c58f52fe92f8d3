"""Activation ranges from data: exact percentiles in constant memory."""

from qpipe.calibration.observe import ObservedRange, observe
from qpipe.calibration.percentile import RunningPercentile, rank_from_top

__all__ = ["ObservedRange", "RunningPercentile", "observe", "rank_from_top"]
