"""Write the operators of onnxruntime's optimizers in standard ones: models are saved as they leave them.

    FusedConv, FusedGemm       Conv, Gemm, (Add of the third operand,) the activation
    FusedMatMul                Transpose before, MatMul, Mul by alpha behind
    BiasGelu, Gelu, FastGelu   (Add of the bias,) Gelu, of which FastGelu is the approximation by tanh
    QuickGelu                  x * Sigmoid(alpha x)
    MatMulNBits                MatMul by the numbers that its packed codes stand for, Add of the bias
    SkipLayerNormalization     Adds of skip and bias, LayerNormalization; its sum where that is read

What it lays out for one machine's kernels is refused: no layer of it could be quantized.

Such a node has no shape that onnx could infer, nor has what stands behind it. Source: onnxruntime, ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.nodes import (
    MICROSOFT,
    AnyArray,
    constant_input,
    describe,
    float_attribute,
    initializer,
    input_value,
    int_attribute,
    rank,
    string_attribute,
)

_ACTIVATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "": (), "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
    "Clip": ("low", "high"),
}  # fmt: skip
"""Each with the attributes that its parameters are; a Clip's are constants."""
_FOR_ONE_MACHINE: Final = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""Domains of layouts, from ORT_ENABLE_ALL."""
_PACKED_BITS, _PACKED_RANK = frozenset({2, 4, 8}), 3
_EPSILON: Final = 1e-12
"""The default of SkipLayerNormalization."""


class Body:
    """The nodes that take the place of one."""

    def __init__(self, node: ir.Node) -> None:
        self.node, self.graph = node, node.graph
        self.nodes: list[ir.Node] = []

    def add(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A standard node; its result, of floats."""
        return self.typed(ir.DataType.FLOAT, op_type, *inputs, **attributes)

    def typed(self, dtype: ir.DataType, op_type: str, /, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The same of another type."""
        name = f"{self.node.name or self.node.outputs[0].name}_{len(self.nodes)}"
        self.nodes.append(ir.node(op_type, inputs, attributes, name=name))
        result = self.nodes[-1].outputs[0]
        result.name, result.type = f"{name}_result", ir.TensorType(dtype)
        return result

    def constant(self, what: str, array: AnyArray) -> ir.Value:
        """One of any shape."""
        assert isinstance(self.graph, ir.Graph)
        return initializer(self.graph, f"{self.node.name or self.node.outputs[0].name}_{what}", array)

    def number(self, what: str, value: float) -> ir.Value:
        """A constant."""
        return self.constant(what, np.array(value, np.float32))

    def inputs(self, count: int) -> list[ir.Value | None]:
        """The node's, None where they are left out."""
        return [input_value(self.node, index) for index in range(count)]

    def activate(self, x: ir.Value, parameters: Sequence[float]) -> ir.Value:
        """What `activation` says."""
        name = string_attribute(self.node, "activation", "")
        given = dict(zip(_ACTIVATIONS.get(name, ()), parameters, strict=False))
        if name == "Clip":
            return self.add(name, x, *(self.number(what, value) for what, value in given.items()))
        return x if not name else self.add(name, x, **given)


Spell = Callable[[Body], list[ir.Value] | None]
"""The results in their order; None where a node is not understood."""


def _activation_is_known(node: ir.Node) -> bool:
    return string_attribute(node, "activation", "") in _ACTIVATIONS


def _fused_conv(b: Body) -> list[ir.Value] | None:
    if not _activation_is_known(b.node):
        return None
    x, w, bias, addend = b.inputs(4)
    own = {"activation", "activation_params"}
    kept = {name: value.value for name, value in b.node.attributes.items() if name not in own}
    y = b.add("Conv", x, w, *([] if bias is None else [bias]), **kept)
    if addend is not None:
        y = b.add("Add", y, addend)
    found = b.node.attributes.get("activation_params")
    return [b.activate(y, () if found is None else found.as_floats())]


def _fused_gemm(b: Body) -> list[ir.Value] | None:
    if not _activation_is_known(b.node):
        return None
    kept = {name: value.value for name, value in b.node.attributes.items() if not name.startswith("activation")}
    names = _ACTIVATIONS[string_attribute(b.node, "activation", "")]
    parameters = [float_attribute(b.node, f"activation_{name}", 0.0) for name in names]
    return [b.activate(b.add("Gemm", *(v for v in b.inputs(3) if v is not None), **kept), parameters)]


def _fused_matmul(b: Body) -> list[ir.Value] | None:
    operands = b.inputs(2)
    if any(int_attribute(b.node, f"transBatch{side}", 0) for side in "AB"):
        return None
    for index, side in enumerate("AB"):
        dims = rank(operands[index])
        if int_attribute(b.node, f"trans{side}", 0):
            if dims is None or dims < 2:
                return None
            operands[index] = b.add("Transpose", operands[index], perm=[*range(dims - 2), dims - 1, dims - 2])
    y, alpha = b.add("MatMul", *operands), float_attribute(b.node, "alpha", 1.0)
    return [y if alpha == 1 else b.add("Mul", y, b.number("alpha", alpha))]


def _gelu(approximate: str) -> Spell:
    def spell(b: Body) -> list[ir.Value]:
        x, bias = b.inputs(2)
        assert x is not None
        return [b.add("Gelu", x if bias is None else b.add("Add", x, bias), approximate=approximate)]

    return spell


def _quick_gelu(b: Body) -> list[ir.Value]:
    (x,), alpha = b.inputs(1), float_attribute(b.node, "alpha", 1.702)
    scaled = x if alpha == 1 else b.add("Mul", x, b.number("alpha", alpha))
    return [b.add("Mul", x, b.add("Sigmoid", scaled))]


def _skip_layer_norm(b: Body) -> list[ir.Value] | None:
    x, skip, gamma, beta, bias = b.inputs(5)
    if any(value.uses() or value.is_graph_output() for value in b.node.outputs[1:3]):
        return None
    total = b.add("Add", x, skip)
    total = total if bias is None else b.add("Add", total, bias)
    parameters = [value for value in (gamma, beta) if value is not None]
    y = b.add("LayerNormalization", total, *parameters, epsilon=float_attribute(b.node, "epsilon", _EPSILON), axis=-1)
    return [y, y, y, total][: len(b.node.outputs)]


def _matmul_n_bits(b: Body) -> list[ir.Value] | None:
    """Weights `[C, blocks, bytes of a block]`, low bits first, with a scale and a zero point for each block of K."""
    x, _, _, zeros, order, bias = b.inputs(6)
    packed, scales = constant_input(b.node, 1), constant_input(b.node, 2)
    bits, K, C = (int_attribute(b.node, name, default) for name, default in (("bits", 4), ("K", 0), ("N", 0)))
    offset = constant_input(b.node, 3)
    if packed is None or scales is None or order is not None or bits not in _PACKED_BITS:
        return None
    if packed.dtype != np.uint8 or packed.ndim != _PACKED_RANK or (zeros is None) != (offset is None):
        return None
    blocks = packed.shape[1]
    if offset is None:
        offset = np.full((C, blocks), 1 << bits - 1)
    elif offset.dtype == np.uint8:
        offset = _unpacked(offset.reshape(C, -1), bits)[:, :blocks]
    codes = _unpacked(packed, bits).astype(np.float32)
    real = (codes - offset.reshape(C, blocks, 1).astype(np.float32)) * scales.reshape(C, blocks, 1)
    weight = np.ascontiguousarray(real.reshape(C, -1)[:, :K].T, np.float32)
    y = b.add("MatMul", x, b.constant("weight", weight))
    return [y if bias is None else b.add("Add", y, bias)]


def _unpacked(packed: AnyArray, bits: int) -> AnyArray:
    """`[..., n]` of bytes as `[..., n 8 / bits]` of codes."""
    codes = packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)


_SPELLINGS: Final[Mapping[str, Spell]] = {
    "FusedConv": _fused_conv, "FusedGemm": _fused_gemm, "FusedMatMul": _fused_matmul, "TransposeMatMul": _fused_matmul,
    "Gelu": _gelu("none"), "BiasGelu": _gelu("none"), "FastGelu": _gelu("tanh"), "QuickGelu": _quick_gelu,
    "MatMulNBits": _matmul_n_bits, "SkipLayerNormalization": _skip_layer_norm,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StandardOperators(ir.passes.InPlacePass):
    """Each of these in the graph, whose attributes are understood."""

    name: ClassVar[str] = "standard-operators"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, in the order of the graph: a Transpose asks for ranks.

        Raises ModelError on a layout for one machine.
        """
        for node in model.graph:
            if node.domain in _FOR_ONE_MACHINE:
                raise ModelError(
                    f"{describe(node)}: '{node.domain}' is a layout for one machine, expected the model as it was, or "
                    "optimized up to ORT_ENABLE_EXTENDED"
                )
        return respell(model, MICROSOFT, _SPELLINGS)


def respell(model: ir.Model, domain: str, spellings: Mapping[str, Spell]) -> ir.passes.PassResult:
    """Replace each node of a domain that its spelling understands, in the order of the graph."""
    nodes = [node for node in model.graph if node.domain == domain and node.op_type in spellings]
    replaced = [_try_replace(model.graph, node, spellings[node.op_type]) for node in nodes]
    return ir.passes.PassResult(model, any(replaced))


def _try_replace(graph: ir.Graph, node: ir.Node, spell: Spell) -> bool:
    body = Body(node)
    found = spell(body)
    if found is None:
        return False
    pairs = [(old, new) for old, new in zip(node.outputs, found, strict=False) if old.uses() or old.is_graph_output()]
    ir.convenience.replace_nodes_and_values(graph, node, [node], body.nodes, *map(list, zip(*pairs, strict=True)))
    return True
