"""How a pass that rewrites a float graph is tested: onnxruntime computes the same before and after."""

import re
from typing import Any

import numpy as np
import onnx_ir as ir

from support.networks import build, checked, ops
from support.run import run_as_written


def assert_same(
    rewrite: ir.passes.InPlacePass,
    model: ir.Model,
    expected_ops: list[str] | None = None,
    *,
    atol: float = 0.0,
    **inputs,
) -> None:
    """The pass does something once, keeps names and numbers of the outputs, and leaves a valid graph.

    atol: the largest difference; by default the bits are equal.
    """
    names, before = [value.name for value in model.graph.outputs], run_as_written(model, **inputs)
    assert rewrite(model).modified
    if expected_ops is not None:
        assert ops(model) == expected_ops
    checked(model)
    assert [value.name for value in model.graph.outputs] == names
    for found, expected in zip(run_as_written(model, **inputs), before, strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    assert not rewrite(model).modified


def assert_stays(rewrite: ir.passes.InPlacePass, model: ir.Model) -> None:
    """The pass finds nothing to do."""
    before = ir.to_proto(model).SerializeToString()
    assert not rewrite(model).modified
    assert ir.to_proto(model).SerializeToString() == before


def network(shape: str, nodes: str, **constants: Any) -> ir.Model:
    """From `x` float32 of this shape, through nodes as `parse` takes them, to `y`; of the constants those they name."""
    used = {name: array for name, array in constants.items() if re.search(rf"[(,] *{name} *[,)]", nodes)}
    return build(f"(float[{shape}] x) => (float[] y) {{ {nodes} }}", **used)
