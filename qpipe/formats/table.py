"""The formats by name."""

from __future__ import annotations

from qpipe.formats.base import WeightFormat
from qpipe.formats.dorefa import DoReFa

FORMATS: dict[str, type[WeightFormat]] = {DoReFa.name: DoReFa}
