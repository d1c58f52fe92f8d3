"""Run a pass so that its own errors come through."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.errors import QpipeError


def run_pass(pass_: ir.passes.InPlacePass, model: ir.Model) -> None:
    """Run it on the model; a QpipeError is raised as it is, not inside onnx_ir's PassError."""
    try:
        pass_(model)
    except ir.passes.PassError as error:
        if isinstance(error.__cause__, QpipeError):
            raise error.__cause__ from None
        raise
