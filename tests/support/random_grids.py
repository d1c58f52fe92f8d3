"""Quantize a small network on random grids and compare every integer: what the property tests of lowerings share."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from support.networks import Weights, float_model
from support.oracle import Codes, assert_integers
from support.quantize import finalized_on_grids, to_qoperator

EXPONENTS = st.integers(-3, 3)  # log2 of the range of a tensor whose values are about 1
ACTIVATIONS = st.sampled_from(["Relu({})", "Identity({})", "Clip({}, low, six)"])
BITS = st.sampled_from([8, 8, 4])


def check(
    draw: Any,
    nodes: list[str],
    shape: tuple[int, ...],
    w: Weights,
    *,
    fused: bool = True,
    gate: bool = False,
    **options: Any,
) -> Codes:
    """Quantize on random grids, finalize, lower, and compare every integer on noise that saturates here and there.

    gate: the certificate and the operator-oriented export are checked too.
    """
    constants = w.constants | {"low": np.float32(0), "six": np.float32(0.7)}
    used = {name: array for name, array in constants.items() if any(name in node for node in nodes)}
    negative = draw(st.booleans())
    spec = float_model("net", shape, nodes, **used)
    finalized_on_grids(spec, lambda: draw(EXPONENTS), bits=draw(BITS), negative=negative)
    if gate:
        assert certify(read_view(spec)).problems == []
        run_gate(spec, to_qoperator(spec))
    inputs = np.random.default_rng(draw(st.integers(0, 1000))).standard_normal((draw(st.integers(1, 3)), *shape))
    return assert_integers(spec, (inputs if negative else abs(inputs)).astype(np.float32), fused=fused, **options)
