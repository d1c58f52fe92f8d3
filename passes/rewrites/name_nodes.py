"""Give every node and value a unique name, because reports and errors speak of nodes by name."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common


@dataclass(frozen=True, kw_only=True)
class NameNodes(ir.passes.InPlacePass):
    """An unnamed node is called after its op and its first output, such as ``Conv_282``; unique names stay."""

    name: ClassVar[str] = "name-nodes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name what has no name and tell apart what shares one."""
        return common.NameFixPass(_Names())(model)


class _Names:
    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or f"{node.op_type}_{node.outputs[0].name or 'unnamed'}"

    def generate_value_name(self, value: ir.Value) -> str:
        return value.name or "value"
