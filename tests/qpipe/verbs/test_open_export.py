"""A lowering that is the network's at one size alone is not written open."""

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from qpipe.ir.files.load import load_model
from qpipe.ir.files.sizes import read_sizes
from qpipe.verbs.open_export import lowered_at_any_size
from support.networks import parse
from support.quantize import finalized, to_integer
from support.run import run

IMAGES = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)


def of_one_size(spec: ir.Model) -> ir.Model:
    """As if a lowering that counts on the size had been opened."""
    lowered = to_integer(spec)
    lowered.graph.inputs[0].shape = ir.Shape(["N", 3, "H", "W"])
    for node in lowered.graph:
        node.outputs[0].shape = None
    return lowered


@pytest.mark.parametrize("counts", [True, False])
def test_what_gives_other_integers_at_another_size_stays_fixed(counts):
    pool = "p = GlobalAveragePool(r)" if counts else "p = Relu(r)"
    text = f"(float[N,3,H,W] x) => (float[] y) {{ c = Conv(x, w1) r = Relu(c) {pool} y = Conv(p, w2) }}"
    rng = np.random.default_rng(1)
    weights = {k: rng.standard_normal(s).astype(np.float32) for k, s in (("w1", (4, 3, 1, 1)), ("w2", (5, 4, 1, 1)))}
    spec = finalized(load_model(qpipe.calibrate(parse(text, **weights), IMAGES)))
    fixed = to_integer(spec)
    lower = (lambda _: of_one_size(spec)) if counts else to_integer
    chosen = lowered_at_any_size(spec, fixed, lower, seed=0, pairs="safe")
    assert (chosen is fixed) == counts
    assert bool(read_sizes(chosen)) != counts


def test_tables_are_looked_up_at_any_size(tmp_path):
    """One row of codes goes back to sizes that are no constants of calibration's."""
    text = "(float[N,3,H,W] x) => (float[] y) { c = Conv(x, w1) s = Sigmoid(c) t = Mul(c, s) y = Conv(t, w2) }"
    rng = np.random.default_rng(1)
    weights = {k: rng.standard_normal(s).astype(np.float32) for k, s in (("w1", (4, 3, 1, 1)), ("w2", (5, 4, 1, 1)))}
    qdq = qpipe.calibrate(parse(text, **weights), IMAGES, tmp_path / "net.qdq.onnx")
    assert "Gather" in [node.op_type for node in qdq.graph]
    x = np.concatenate([IMAGES, IMAGES[:, :, ::2]], axis=2)
    wanted = run(qdq, x)[0]
    for way in ("qoperator", "integer", "qdq"):
        exported = qpipe.export(tmp_path / "net.qdq.onnx", format=way, data=IMAGES, seed=0)
        assert [dim if isinstance(dim, int) else 0 for dim in exported.graph.inputs[0].shape] == [0, 3, 0, 0]
        # Between QuantizeLinear and DequantizeLinear the chain has no branch that could give the sizes.
        assert ("Gather" in [node.op_type for node in exported.graph]) == (way == "qdq")
        np.testing.assert_array_equal(run(exported, x)[0], wanted)
