"""Activations that are tables, each with torch's own function, and networks of them; a new one is one row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional as F

from passes.normalize import normalize
from qpipe.ir.graph.scale_groups import scale_groups
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.nodes import DOMAIN
from qpipe.ops import OPS, Curve, curve_of
from qpipe.ops.curve import CurveOp
from support.networks import Weights, float_model
from support.quantize import quantized

# Op and attributes, and torch's own function: none of our code.
CURVES: dict[str, tuple[str, dict[str, float], Callable[[torch.Tensor], torch.Tensor]]] = {
    "Sigmoid": ("Sigmoid", {}, torch.sigmoid),
    "HardSigmoid": ("HardSigmoid", {}, lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    "HardSigmoid of PyTorch": ("HardSigmoid", {"alpha": 1 / 6}, F.hardsigmoid),
    "Tanh": ("Tanh", {}, torch.tanh),
    "LeakyRelu": ("LeakyRelu", {}, F.leaky_relu),
    "LeakyRelu of Darknet": ("LeakyRelu", {"alpha": 0.1}, lambda x: F.leaky_relu(x, 0.1)),
    "HardSwish": ("HardSwish", {}, F.hardswish),
    "SiLU": ("SiLU", {}, F.silu),
    "Elu": ("Elu", {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    "Selu": ("Selu", {}, F.selu),
    "Celu": ("Celu", {"alpha": 1.5}, lambda x: F.celu(x, 1.5)),
    "Softplus": ("Softplus", {}, F.softplus),
    "Mish": ("Mish", {}, F.mish),
    "Softsign": ("Softsign", {}, F.softsign),
    "Gelu": ("Gelu", {}, F.gelu),
    "Gelu by tanh": ("Gelu", {"tanh": 1.0}, lambda x: F.gelu(x, approximate="tanh")),
    "Erf": ("Erf", {}, torch.erf),
    "HardTanh": ("Clip", {"low": -1.0, "high": 1.5}, lambda x: x.clamp(-1, 1.5)),
    "Clip from below": ("Clip", {"low": -0.5}, lambda x: x.clamp(min=-0.5)),
    "PRelu of one slope": ("PRelu", {"slope": 0.25}, lambda x: F.leaky_relu(x, 0.25)),
    "ThresholdedRelu": ("ThresholdedRelu", {"alpha": 0.05}, lambda x: F.threshold(x, 0.05, 0.0)),
    "Abs": ("Abs", {}, torch.abs),
    "square": ("Pow", {"exponent": 2.0}, torch.square),
    "Sin": ("Sin", {}, torch.sin),
    "Cos": ("Cos", {}, torch.cos),
}
INPUTS = {"Clip": ("low", "high"), "PRelu": ("slope",), "Pow": ("exponent",)}
"""What are inputs and no attributes."""
FUSED, ALONE = "fused behind a product and an Add", "alone"


def function_of(op: str, attributes: dict[str, float]) -> Curve:
    # As a file holds them.
    numbers = {name: float(np.float32(value)) for name, value in attributes.items()}
    known = OPS[op]
    defaults = dict(known.defaults) if isinstance(known, CurveOp) else {}
    found = curve_of(op, DOMAIN if op == "SiLU" else "", {**defaults, **numbers})
    assert found is not None
    return found


def written(op: str, attributes: dict[str, float], y: str, x: str) -> list[str]:
    """`y = op(x)` as exporters write it."""
    if op == "SiLU":
        return [f"{y}_gate = Sigmoid({x})", f"{y} = Mul({x}, {y}_gate)"]
    if op == "Gelu":
        return [f'{y} = Gelu<approximate = "{"tanh" if attributes else "none"}">({x})']
    names = [f"{y}_{name}" if name in attributes else "" for name in INPUTS.get(op, ())]
    constants = [f"{y}_{name} = Constant<value_float = {attributes[name]}>()" for name in INPUTS.get(op, ())
                 if name in attributes]  # fmt: skip
    text = ", ".join(f"{name} = {value}" for name, value in attributes.items() if name not in INPUTS.get(op, ()))
    return [*constants, f"{y} = {op}<{text}>({', '.join([x, *names])})".replace("<>", "")]


def network(op: str, attributes: dict[str, float], seed: int, place: str) -> tuple[ir.Model, tuple[int, ...]]:
    """The function behind a Conv, a Gemm and an Add, or alone behind a pool and beside another reader."""
    w, call = Weights(seed), partial(written, op, attributes)
    for name, shape in {
        "w1": (6, 3, 3, 3),
        "b1": (6,),
        "w2": (6, 6, 1, 1),
        "w4": (7, 6),
        "w5": (7, 7),
        "w6": (5, 7),
    }.items():
        w.normal(name, *shape)
    behind = [*call("a", "c"), "d = Conv(a, w2)", "s = Add(d, a)", *call("e", "s")]
    alone = ["m = MaxPool<kernel_shape = [2, 2]>(c)", *call("a", "m"), "d = Conv(a, w2)", "e = Add(d, m)"]
    nodes = [
        "c = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)",
        *(behind if place == FUSED else alone),
        "g = GlobalAveragePool(e)",
        "f = Flatten(g)",
        "h = Gemm<transB = 1>(f, w4)",
        *call("i", "h"),
        "j = Gemm<transB = 1>(i, w5)",
        *call("k", "j"),
        "y = Gemm<transB = 1>(k, w6)",
    ]
    return float_model("net", (3, 6, 6), nodes, **w.constants), (3, 6, 6)


def trainable(
    op: str, attributes: dict[str, float], place: str = FUSED, *, factor: float = 1.0, **options: Any
) -> ir.Model:
    """factor: by which all that may share one is divided."""
    model, _ = network(op, attributes, 0, place)
    normalize(model)
    divided(model, lambda: factor)
    return quantized(model, **options)


def divided(model: ir.Model, factor: Callable[[], float]) -> None:
    """Let each group of tensors of a normalized network have a factor."""
    for group in scale_groups(plan_quantization(model.graph).layers):
        group.divide(factor())
