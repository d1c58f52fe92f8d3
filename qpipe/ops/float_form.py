"""What an op has in common that stays a float node until `finalize` writes its integers: Softmax, normalizations.

A trainable file has ONNX's own node between its quantizers, as it has BatchNormalization, and training computes what
the finalized file will. `finalize` puts a function of the domain `qpipe` in its place, whose body is standard operators
on int32: the arithmetic of `qpipe.arith`, written as nodes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.arith.symbolic import INT32, DType, Symbol
from qpipe.errors import LoweringError
from qpipe.nodes import DOMAIN, describe, initializer, name_value, require_constant
from qpipe.ops.base import Refusal, Role, Unweighted

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction

FLOAT32 = np.dtype(np.float32)


class FloatForm(Unweighted):
    """Of a float graph, and of one that can be trained."""

    role = Role.JOIN
    is_float_form = True
    integer_form: ClassVar[IntegerForm]
    """The op that takes its place."""

    @abstractmethod
    def constants(self, layer: RequantizedLayer) -> dict[str, AnyArray]:
        """What the integer form reads behind its data, by the names of its parameters and in their order."""

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True

    def finalize(self, model: ir.Model, layer: RequantizedLayer) -> None:
        """The call of the function in the node's place, and the function in the model."""
        old, form = layer.node, self.integer_form
        form.define(model)
        inputs: list[ir.Value | None] = list(old.inputs[: len(form.operand_names)])
        for name, array in self.constants(layer).items():
            inputs.append(initializer(model.graph, f"{layer.name}_final_{name}", array))
        new = ir.node(form.op_types[0], inputs, domain=DOMAIN, name=old.name)
        result, source = new.outputs[0], old.outputs[0]
        name_value(result, str(source.name), ir.TensorType(ir.DataType.FLOAT), source.shape)
        model.graph.insert_before(old, new)
        source.replace_all_uses_with(result, replace_graph_outputs=True)
        model.graph.remove(old, safe=True)

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> NoReturn:
        """LoweringError: it is not finalized."""
        raise _not_final(layer)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> NoReturn:
        """LoweringError: it is not finalized."""
        raise _not_final(layer)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> NoReturn:
        """LoweringError: it is not finalized."""
        raise _not_final(layer)


class IntegerForm(Unweighted):
    """A call of a function of the domain `qpipe` between two quantizers: real numbers on a grid, computed in int32.

    Its first inputs are the data, all others are constants.
    """

    role = Role.JOIN
    domains = frozenset({DOMAIN})
    operand_names: ClassVar[tuple[str, ...]] = ("x",)
    """Of its data."""
    parameter_names: ClassVar[tuple[str, ...]]
    """Of its constants."""

    def refusal(self, node: ir.Node) -> Refusal | None:
        """None: it is its own integer form."""
        return None

    def constant(self, node: ir.Node, name: str) -> AnyArray:
        """The array of this name."""
        return require_constant(node, len(self.operand_names) + self.parameter_names.index(name), name)

    def torch(self, node: ir.Node) -> TorchFunction:
        """LoweringError: what is finalized is trained no more."""
        raise LoweringError(f"{describe(node)}: finalized, expected the file that can be trained")

    @abstractmethod
    def body(self, b: FunctionBody, x: ir.Value, constants: dict[str, ir.Value]) -> ir.Value:
        """The nodes from the data to the result, all float32; constants: further operands too, by their names."""

    def define(self, model: ir.Model) -> None:
        """The function, where the model does not have it."""
        opset = {"": model.opset_imports[""]}
        b, x = FunctionBody(), ir.Value(name=self.operand_names[0])
        constants = {name: ir.Value(name=name) for name in (*self.operand_names[1:], *self.parameter_names)}
        result = self.body(b, x, constants)
        graph = ir.Graph([x, *constants.values()], [result], nodes=b.nodes, opset_imports=opset)
        function = ir.Function(DOMAIN, self.op_types[0], graph=graph, attributes=[])
        model.functions.setdefault(function.identifier(), function)
        model.opset_imports[DOMAIN] = 1


class FunctionBody:
    """An emitter (see `qpipe.arith.symbolic`) of a function's nodes: its constants are nodes too."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def node(self, op_type: str, inputs: Sequence[ir.Value], dtype: DType = FLOAT32, **attributes: Any) -> ir.Value:
        """A node of the standard domain."""
        node = ir.node(op_type, inputs, attributes)
        self.nodes.append(node)
        output = node.outputs[0]
        output.name, output.type = f"v{len(self.nodes)}", ir.TensorType(ir.DataType.from_numpy(dtype))
        return output

    def cast(self, value: ir.Value, dtype: DType) -> ir.Value:
        """A Cast."""
        return self.node("Cast", [value], dtype, to=ir.DataType.from_numpy(dtype))

    def operand(self, array: AnyArray, sizes: Sequence[int | None]) -> ir.Value:
        """A Constant."""
        return self.node("Constant", [], array.dtype, value=ir.tensor(array))

    def codes(self, x: ir.Value, scale: ir.Value) -> Symbol:
        """The integers, without zero point, of real numbers on a grid: exact, because the scale is a power of two."""
        return Symbol(self, self.cast(self.node("Div", [x, scale]), INT32))

    def real(self, codes: Symbol, scale: ir.Value) -> ir.Value:
        """The real numbers of integers."""
        return self.node("Mul", [self.cast(codes.handle, FLOAT32), scale])


def straight_through(real: Callable[[Any], Any], exact: Callable[[Any], Any]) -> TorchFunction:
    """A function with the values of `exact`, in their own type where nothing trains, and the gradient of `real`."""

    def run(x: Any) -> Any:
        import torch

        with torch.no_grad():
            found = exact(x)
        if not x.requires_grad:
            return found
        y = real(x)
        # What is added is 0, to the last bit.
        return found.to(y.dtype) + (y - y.detach())

    return run


def _not_final(layer: RequantizedLayer) -> LoweringError:
    return LoweringError(f"{describe(layer.node)}: computes floats between quantizers, expected a finalized model")
