"""The formats by the names that users choose them by, and by what a QDQ file computes their codes with."""

from __future__ import annotations

from qpipe.formats import DEFAULT
from qpipe.formats.base import WeightFormat
from qpipe.formats.binary import BiReal, GroupNet
from qpipe.formats.dorefa import DoReFa
from qpipe.formats.fixed_point import FixedPoint
from qpipe.formats.lq import LQ

FORMATS: dict[str, type[WeightFormat]] = {known.name: known for known in (FixedPoint, DoReFa, LQ, BiReal, GroupNet)}

EDGE_FORMAT = FORMATS[DEFAULT]
"""That of the layers that don't get another one: of first and last ones always."""


def format_of_codes(op_type: str) -> type[WeightFormat]:
    """That whose codes a node of this op gives; of any other the default one, which says what it expected."""
    return next((known for known in FORMATS.values() if known.codes_op == op_type), EDGE_FORMAT)
