"""Keep in float the layers that are told to stay so, and no others of those that would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable, layers_hit
from qpipe.ir.graph.layers import IS_FORMULA, STAYS_FLOAT, group_layers


@dataclass(frozen=True, kw_only=True)
class KeepFloat(ir.passes.InPlacePass):
    """Mark the nodes of each layer that an entry of `layers` speaks of, in order.

    What may become integers is marked too, so that it is not kept by itself when the file is calibrated again.
    """

    name: ClassVar[str] = "keep-float"

    layers: LayerTable = NO_OPTIONS

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises RecipeError where an entry matches no layer."""
        entries = [entry for entry in self.layers.entries if entry.stays_float is not None]
        for entry in entries:
            for layer in layers_hit(entry, group_layers(model.graph)):
                for node in layer.nodes:
                    node.metadata_props.pop(IS_FORMULA, None)
                    node.metadata_props[STAYS_FLOAT] = "as it was told to" if entry.stays_float else ""
        return ir.passes.PassResult(model, bool(entries))
