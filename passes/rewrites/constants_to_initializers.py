"""Make every Constant node an initializer, so that a constant has one form."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common


@dataclass(frozen=True, kw_only=True)
class ConstantsToInitializers(ir.passes.InPlacePass):
    """Constant nodes of any kind and size become initializers; one that is itself a graph output stays."""

    name: ClassVar[str] = "constants-to-initializers"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lift every Constant."""
        return common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
