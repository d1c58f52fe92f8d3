"""Where operators have their operands, of ONNX and of onnxruntime's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operands:
    """Where an operator, an op or an integer form of it, has its weight and its bias: indices of its inputs."""

    op_type: str
    weight: int
    bias: int


@dataclass(frozen=True)
class StandardForm:
    """Of an operator of onnxruntime's own: the standard one of the same shapes, and which inputs are its data."""

    op_type: str
    standard: str
    data: slice
