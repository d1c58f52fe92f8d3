"""Which tensor of the QDQ graph a lowered value equals, and in which layout: said by the value, read by the gate."""

from __future__ import annotations

import onnx_ir as ir

CODES_OF = "qpipe.codes_of"
LAYOUT = "qpipe.layout"


def mark(value: ir.Value, codes_of: str | None, layout: str = "NCHW") -> None:
    """Leave both in the value's metadata."""
    value.metadata_props[CODES_OF] = str(codes_of)
    value.metadata_props[LAYOUT] = layout
