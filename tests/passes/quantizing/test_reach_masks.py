"""Ranges reach what a mask can do, whatever samples show, and nothing else is widened."""

import numpy as np
import pytest

from passes.normalize import normalize
from passes.quantizing.bound_scores import BoundScores
from passes.quantizing.calibrate_percentile import CalibratePercentile, take_range
from passes.quantizing.reach_masks import ReachMasks
from support.networks import build

RNG = np.random.default_rng(0)
W = RNG.standard_normal((8, 8)).astype(np.float32) / 2
TEXT = (
    "(float[N,8,8] x, bool[N,8,8] c) => (float[] y) {{ a = MatMul(x, w) m = Where(c, zero, low) "
    "s = Add({}) p = Softmax<axis = -1>(s) y = MatMul(p, w) }}"
)


@pytest.mark.parametrize(("low", "is_mask"), [(-10000.0, True), (-3.0, False)])
@pytest.mark.parametrize("order", ["a, m", "m, a"])
def test_a_mask_that_no_sample_has(low, is_mask, order):
    model = build(TEXT.format(order), w=W, zero=np.float32(0), low=np.float32(low))
    normalize(model)
    inputs = {"x": RNG.standard_normal((16, 8, 8)).astype(np.float32), "c": np.ones((16, 8, 8), bool)}
    assert BoundScores(inputs=inputs)(model).modified == is_mask
    CalibratePercentile(inputs=[inputs])(model)
    assert ReachMasks()(model).modified == is_mask
    ranges = {value.name: take_range(value) for node in model.graph for value in node.outputs if value.metadata_props}
    assert ranges["m"].ymax == (10000.0 if is_mask else 0.0)
    if is_mask:
        bound = next(node for node in model.graph if node.op_type == "Clip")
        assert ranges[bound.outputs[0].name].ymax == -bound.inputs[1].const_value.numpy()
    assert not any(found.is_given for name, found in ranges.items() if "bounded" not in name and name != "m")
