"""The primitives: numpy's and torch's give the same bits and the same kinds of types."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qpipe.arith.namespace import Namespace, integers, namespace, square_root, take_along
from qpipe.arith.symbolic import SYMBOLIC, Symbol

MATRICES = arrays(np.float64, (3, 4), elements=st.floats(-(2.0**20), 2.0**20).map(lambda x: round(x * 8) / 16))
PRIMITIVES: dict[str, Callable[[Any, Any], Any]] = {
    "sign": lambda xp, x: xp.sign(x),
    "round": lambda xp, x: xp.round(x),
    "floor": lambda xp, x: xp.floor(x),
    "ceil": lambda xp, x: xp.ceil(x),
    "frexp": lambda xp, x: xp.frexp(x)[0] + xp.frexp(x)[1],
    "ldexp": lambda xp, x: xp.ldexp(x, xp.frexp(x)[1] - 3),
    "minimum": lambda xp, x: xp.minimum(x, -x),
    "maximum": lambda xp, x: xp.maximum(x, -x),
    "clip": lambda xp, x: xp.clip(xp.clip(x, -3.5, 100), -2, None),
    "where": lambda xp, x: xp.where(x > 0, 1.0, x),
    "where, of integers": lambda xp, x: xp.where(x > 0, -126, xp.frexp(x)[1]),
    "any": lambda xp, x: xp.any(x > 2, axis=1) & xp.any(x < 0),
    "amax": lambda xp, x: xp.amax(x, axis=1) + xp.amax(x),
    "sum": lambda xp, x: xp.sum(x, axis=1, dtype=xp.float64) + xp.sum(x),
    "mean": lambda xp, x: xp.mean(x, axis=1, dtype=xp.float64),
    "asarray": lambda xp, x: xp.asarray(x, dtype=xp.int32),
    "zeros_like": lambda xp, x: xp.zeros_like(x[:, 0], dtype=xp.int32),
    "ones_like": lambda xp, x: xp.ones_like(x),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x[:, :1], x.shape),
    "moveaxis": lambda xp, x: xp.moveaxis(x, 1, 0),
    "concatenate": lambda xp, x: xp.concatenate([x, -x], 1),
    "stack": lambda xp, x: xp.stack([x, -x], 1),
    "sorted": lambda xp, x: take_along(x, xp.argsort(x, 1)),
}
FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos")


@pytest.mark.parametrize("name", PRIMITIVES)
@given(x=MATRICES)
def test_numpy_equals_torch(name: str, x: np.ndarray) -> None:
    ours, theirs = (PRIMITIVES[name](namespace(a), a) for a in (x, torch.from_numpy(x)))
    np.testing.assert_array_equal(theirs.numpy(), ours)
    assert np.asarray(theirs.numpy()).dtype.kind == np.asarray(ours).dtype.kind


@given(x=MATRICES)
def test_a_root_may_differ_in_its_last_bit(x: np.ndarray) -> None:
    """torch's vectorized square root of float64 is not correctly rounded everywhere."""
    np.testing.assert_array_max_ulp(
        namespace(torch.from_numpy(x)).sqrt(abs(torch.from_numpy(x))).numpy(), np.sqrt(abs(x))
    )


LAST_BIT = 1
"""Units in the last place: each library's result is next to the true one or is it, and so next to the other's."""


@pytest.mark.parametrize("name", FUNCTIONS)
@given(x=MATRICES, scale=st.sampled_from([1.0, 2.0**-9, 2.0**-16]))
def test_a_function_may_differ_in_its_last_bit(name: str, x: np.ndarray, scale: float) -> None:
    """Neither library rounds these correctly everywhere."""
    x = abs(x * scale) if name in {"log", "log1p"} else x * scale
    x = np.maximum(x, 2.0**-60) if name == "log" else x
    with np.errstate(over="ignore"):
        ours, theirs = (getattr(namespace(a), name)(a) for a in (x, torch.from_numpy(x)))
    np.testing.assert_array_max_ulp(theirs.numpy(), ours, LAST_BIT)


def test_every_primitive_is_held_by_both() -> None:
    """tanh and solve, which are not to the bit, are compared where they are used."""
    names = {name for name in vars(Namespace) if not name.startswith("_")} | set(Namespace.__annotations__)
    tried = {name.split(",")[0] for name in PRIMITIVES} | set(FUNCTIONS)
    tried |= {"float64", "int32", "tanh", "sqrt", "linalg", "argsort"}
    assert tried - {"sorted"} == names
    assert all(hasattr(library, name) for library in (np, torch) for name in names)


def test_an_array_knows_its_library() -> None:
    assert namespace(np.zeros(2)) is namespace(np.float64(1)) is integers(np.zeros(2, int)) is np  # type: ignore[type-var]
    assert namespace(torch.zeros(2)) is namespace(torch.nn.Parameter(torch.zeros(2))) is torch
    assert integers(Symbol.__new__(Symbol)) is SYMBOLIC


@given(arrays(np.float64, st.integers(1, 70), elements=st.floats(1e-12, 1e12)))
def test_roots_are_rounded_alike(x):
    np.testing.assert_array_equal(square_root(torch.from_numpy(x)).numpy(), np.sqrt(x))


def test_a_root_has_its_gradient_and_no_number_from_none():
    x = torch.linspace(0.1, 7.0, 1000, dtype=torch.float64, requires_grad=True)
    y = square_root(x)
    np.testing.assert_array_equal(y.detach().numpy(), np.sqrt(x.detach().numpy()))
    y.sum().backward()
    torch.testing.assert_close(x.grad, 0.5 / x.detach().sqrt())
    edges = torch.tensor([0.0, torch.inf, -1.0], dtype=torch.float64)
    np.testing.assert_array_equal(square_root(edges).numpy(), [0.0, np.inf, np.nan])
