from typing import Any

import numpy as np
import pytest

from qpipe.ops import OPS, op_of
from qpipe.ops.work import FUNCTION, NO_WORK, NodeWork, Work
from support.networks import load_model, parse


def node_of(text: str, shape: str = "N,4,6,6", **constants: Any) -> Any:
    return load_model(parse(f"(float[{shape}] x) => (float[] y) {{ {text} }}", **constants)).graph[-1]


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


VECTORS = dict.fromkeys("abcd", ones(4))
CASES: dict[str, tuple[str, dict[str, Any], NodeWork | None]] = {
    "batch norm": (
        "y = BatchNormalization(x, a, b, c, d)",
        VECTORS,
        NodeWork(Work(1, 1), training=Work(2, 3), backward=Work(3, 4)),
    ),
    "add": ("y = Add(x, x)", {}, NodeWork(Work(add=1))),
    "relu": ("y = Relu(x)", {}, NodeWork(Work(compare=1), backward=Work(compare=1))),
    "relu6": (
        "y = Clip(x, low, high)",
        {"low": np.float32(0), "high": np.float32(6)},
        NodeWork(Work(compare=2), backward=Work(compare=2)),
    ),
    "average": (
        "y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)",
        {},
        NodeWork(Work(multiply=1, add=3), backward=Work(multiply=1)),
    ),
    "overlapping average": (
        "y = AveragePool<kernel_shape=[3,3], strides=[3,2]>(x)",
        {},
        NodeWork(Work(multiply=1, add=8), backward=Work(multiply=1, add=9)),
    ),
    "global average": ("y = GlobalAveragePool(x)", {}, NodeWork(Work(multiply=1, add=35), backward=Work(multiply=1))),
    "largest": (
        "y = MaxPool<kernel_shape=[3,2]>(x)",
        {},
        NodeWork(Work(compare=5), backward=Work(add=1)),
    ),
    "flatten": ("y = Flatten(x)", {}, NodeWork()),
    "bias": ("y = Conv(x, w, b)", {"w": ones(4, 4, 1, 1), "b": ones(4)}, NodeWork(Work(add=1), backward=Work(add=1))),
    "no bias": ("y = Conv(x, w)", {"w": ones(4, 4, 1, 1)}, NodeWork()),
    "tanh": ("y = Tanh(x)", {}, NodeWork(FUNCTION, backward=Work(multiply=2, add=1))),
    "a factor": ("y = Mul(x, f)", {"f": ones(1)}, NodeWork(Work(multiply=1), backward=Work(multiply=2))),
    "unknown": ("y = Det(x)", {}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_operations_of_an_element(case: str) -> None:
    text, constants, expected = CASES[case]
    node = node_of(text, **constants)
    assert op_of(node).work(node) == expected


def test_training_does_what_inference_does_unless_it_says_otherwise() -> None:
    assert NodeWork(Work(add=1)).training_forward == Work(add=1)
    assert NodeWork(Work(add=1), training=Work(add=2)).training_forward == Work(add=2)
    assert NodeWork().training_forward == NO_WORK


def test_every_curve_says_what_it_costs() -> None:
    curves = [op for op in OPS.values() if hasattr(op, "formula")]
    assert len(curves) == 25
    for op in curves:
        work = op.work(None)  # type: ignore[arg-type]
        assert work.forward != NO_WORK
        assert work.backward != NO_WORK
