"""The primitives that the arithmetic is written in, beside the operators.

The library of an array interprets them: numpy is the oracle, torch the simulation, and for the integer functions the
symbols of `qpipe.arith.symbolic` write ONNX nodes. What is told here is what they have in common. Sums are float64, so
that numpy and torch agree to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from qpipe.arith.symbolic import Symbol

AnyArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

A = TypeVar("A", AnyArray, "torch.Tensor")
"""An array of numpy or a tensor of torch, of floats, integers or bools: a generic function is checked for both."""
I = TypeVar("I", AnyArray, "Symbol")  # noqa: E741
"""Integers of numpy, or of a graph that is being written; constants are numpy's."""


class IntegerNamespace(Protocol[I]):
    """The functions of integers."""

    def minimum(self, a: I, b: IntArray | int, /) -> I: ...
    def maximum(self, a: I, b: IntArray | int, /) -> I: ...
    def clip(self, x: I, low: int, high: int, /) -> I: ...
    def not_equal(self, a: I, b: int, /) -> I: ...


class _LinearAlgebra(Protocol[A]):
    def solve(self, matrix: A, right: A, /) -> A: ...


class Namespace(Protocol[A]):
    """The functions of arrays: those that numpy and torch name and define alike."""

    float64: object
    int32: object

    @property
    def linalg(self) -> _LinearAlgebra[A]: ...
    def sign(self, x: A, /) -> A: ...
    def round(self, x: A, /) -> A: ...
    def floor(self, x: A, /) -> A: ...
    def ceil(self, x: A, /) -> A: ...
    def sqrt(self, x: A, /) -> A: ...
    def tanh(self, x: A, /) -> A: ...
    def exp(self, x: A, /) -> A: ...
    def expm1(self, x: A, /) -> A: ...
    def log(self, x: A, /) -> A: ...
    def log1p(self, x: A, /) -> A: ...
    def sin(self, x: A, /) -> A: ...
    def cos(self, x: A, /) -> A: ...
    def frexp(self, x: A, /) -> tuple[A, A]: ...
    def ldexp(self, x: A, exponent: A, /) -> A: ...
    def minimum(self, a: A, b: A, /) -> A: ...
    def maximum(self, a: A, b: A, /) -> A: ...
    def clip(self, x: A, low: float, high: float | None, /) -> A: ...
    def where(self, condition: A, a: A | float, b: A | float, /) -> A: ...
    def any(self, x: A, /, axis: int = ...) -> A: ...
    def amax(self, x: A, /, axis: int = ...) -> A: ...
    def sum(self, x: A, /, axis: int = ..., *, dtype: object = ...) -> A: ...
    def mean(self, x: A, /, axis: int = ..., *, dtype: object = ...) -> A: ...
    def asarray(self, x: A, /, *, dtype: object) -> A: ...
    def zeros_like(self, x: A, /, *, dtype: object = ...) -> A: ...
    def ones_like(self, x: A, /) -> A: ...
    def broadcast_to(self, x: A, shape: tuple[int, ...], /) -> A: ...
    def moveaxis(self, x: A, source: int, destination: int, /) -> A: ...
    def concatenate(self, parts: Sequence[A], axis: int, /) -> A: ...
    def stack(self, parts: Sequence[A], axis: int, /) -> A: ...
    def argsort(self, x: A, axis: int, /) -> A: ...


def namespace(x: A) -> Namespace[A]:
    """The library of an array."""
    if isinstance(x, (np.ndarray, np.generic)):
        return cast("Namespace[A]", np)
    import torch

    return cast("Namespace[A]", torch)


def integers(x: I) -> IntegerNamespace[I]:
    """The library of an array of integers."""
    library: IntegerNamespace[I] = x.__array_namespace__()
    return library


def take_along(x: A, order: A) -> A:
    """Of each row of x the elements at these places."""
    if isinstance(x, np.ndarray):
        return np.take_along_axis(x, order, 1)
    return x.gather(1, order)


def error_function(x: A) -> A:
    """`2 / sqrt(pi)` times the integral of `exp(-t**2)` from 0 to x."""
    if isinstance(x, (np.ndarray, np.generic)):
        found: AnyArray = np.vectorize(math.erf, otypes=[np.float64])(x)
        return found
    import torch

    return torch.erf(x)


def square_root(x: A) -> A:
    """The root of float64, rounded to nearest as numpy and IEEE 754 have it.

    torch's vectorized one errs in the last place for one number of a hundred, on CPUs; its gradient stays.
    """
    if isinstance(x, np.ndarray):
        return np.sqrt(x)
    import torch

    root = torch.sqrt(x)
    if root.device.type != "cpu":
        return root
    # They lie next to each other, so that the difference and the sum are exact.
    with np.errstate(invalid="ignore"):
        nearest = torch.from_numpy(np.sqrt(x.detach().numpy()))
    return root + torch.where(root.isfinite(), nearest - root, 0.0).detach()
