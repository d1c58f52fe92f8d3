"""Activation ranges from data: exact percentiles in constant memory."""

from qpipe.calibration.percentile import RunningPercentile, rank_from_top
from qpipe.calibration.observe import ObservedRange, observe

__all__ = ["ObservedRange", "RunningPercentile", "observe", "rank_from_top"]
